"""Weights files (.weights.h5): written whole or not at all, read only where they are the network's own, and finite."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np

from lib.console import UserError
from lib.files import atomic_path

HDF5_OVERHEAD = 4096  # bytes around each array, generously


def save(path: Path, model: keras.Model) -> None:
    """Writes the weights of `model`. Raises UserError where the disk has no room for them."""
    # HDF5 takes the whole process down when the disk fills while it writes: look first. Weights are float32 always.
    needed = 4 * model.count_params() + HDF5_OVERHEAD * (len(model.weights) + 16)
    if shutil.disk_usage(path.parent).free < needed:
        raise UserError(f"{path}: {needed / 1e6:.1f} MB do not fit on the disk; make room, then add --resume")
    with atomic_path(path) as own:
        _bare(model).save_weights(own)


def load(path: Path, model: keras.Model) -> None:
    """Sets the weights of `model` from a file that `save` wrote for a network with the same layers.

    Keras goes by the order of the layers of one class, and leaves what it has no use for: weights of another network
    load wherever the shapes agree one after the other. Here every layer must hold afterwards what the file stores
    under that layer's name, and nothing may be left.

    Raises UserError where the file is damaged, of another network, or holds NaN or infinity.
    """
    layers = {layer.name: layer.weights for layer in model.layers if layer.weights}
    try:
        stored = _stored(path)
        if stored.keys() != layers.keys():
            missing, more = sorted(layers.keys() - stored.keys()), sorted(stored.keys() - layers.keys())
            raise ValueError(f"no weights for {missing[0]}" if missing else f"weights for {more[0]}, which it has not")
        _bare(model).load_weights(path)
        for name, variables in layers.items():
            held = [keras.ops.convert_to_numpy(variable) for variable in variables]
            if sorted(map(_bytes, held)) != sorted(map(_bytes, stored[name])):
                raise ValueError(f"{name} stands in another place")
    except Exception as error:  # whatever HDF5, h5py and Keras say of a damaged file
        reason = str(error).partition("\n")[0][:200]
        raise UserError(f"{path}: does not fit the network of its config ({reason}); train the run again") from None
    for name, arrays in stored.items():
        if not all(np.isfinite(array).all() for array in arrays):
            raise UserError(
                f"{path}: layer {name} holds NaN or infinity; train the run again, with a lower learning_rate"
            )


def _bare(model: keras.Model) -> keras.Model:
    """The same network without the optimizer, with which the file would be three times as large."""
    return keras.Model(model.inputs, model.outputs)


def _stored(path: Path) -> dict[str, list[np.ndarray]]:
    """The arrays below each layer of a file, by the layer's name; layers without any are left out."""
    size = os.path.getsize(path)

    def read(_: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            if item.nbytes > size:
                raise ValueError(f"{item.name} is larger than the file")
            if item.dtype.kind == "f":  # not the state of a random generator
                arrays.append(item[()])

    found: dict[str, list[np.ndarray]] = {}
    with h5py.File(path) as file:
        for group in file["layers"].values():
            arrays: list[np.ndarray] = []
            group.visititems(read)
            if arrays:
                name = str(group["vars"].attrs["name"])
                if name in found:
                    raise ValueError(f"{name} is in it twice")
                found[name] = arrays
    return found


def _bytes(array: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return array.shape, array.tobytes()
