"""Runs whose networks are pretended: what they say of a tile follows from its mask, so that tests know the answer."""

import hashlib
import json
from pathlib import Path

import numpy as np

from lib import probabilities, runs
from lib.config import Config
from lib.data import Dataset, load
from lib.frames import Mosaic
from lib.runs import Split

PLAIN_CONFIG = Config(width=1, depth=1, nesting=1, dspp_rates=(), views=("identity", "hflip"), folds=3)


def write_tiles(path: Path, labelled: int = 60, test: int = 12, seed: int = 0) -> Dataset:
    """A data file whose grey levels tell the labels (40 for each), in patches of 8 x 8; rock is rare. No outliers."""
    rng = np.random.default_rng(seed)
    shares = (0.1, 0.4, 0.28, 0.2, 0.02)
    masks = rng.choice(5, (labelled + test, 8, 16), p=shares).repeat(8, axis=1).repeat(8, axis=2).astype(np.uint8)
    images = masks * 40 + rng.integers(0, 20, masks.shape, dtype=np.uint8)
    np.savez(path, training_set=np.stack([images, masks], axis=1)[:labelled], test_set=images[labelled:])
    return load(str(path), test=False)


def make_system(folder: Path, dataset: Dataset, folds=(0, 1, 2), skill: float = 1.0, **changes) -> Path:
    """An experiment folder with finished runs of some folds; `skill`: what the right class's logit gains, on noise.

    Other keywords change the config.
    """
    # Its skill and its folder, in what passes for weights
    for fold, split in zip(folds, Split.each(dataset, config := PLAIN_CONFIG.replace(**changes), folds)):
        run = runs.fold_folder(folder.parent, folder.name, fold)
        runs.write_text(run / runs.SPLIT, split.to_json())
        runs.write_text(run / runs.CONFIG, config.to_json())
        runs.write_text(run / runs.WEIGHTS, json.dumps({"skill": skill, "name": f"{folder.name} {fold}"}))
        runs.write_text(run / runs.METRICS, json.dumps({"parameters": 1, "epochs": 1, "best_epoch": 1, "seconds": 1.0}))
    return folder


def give_networks(experiment: Path) -> None:
    """Weights of untrained networks for the runs of an experiment's folder, each fold's from a seed of its own."""
    from lib import weights
    from lib.models import build_model

    for fold, folder in enumerate(sorted(experiment.glob("fold_*"))):
        run = runs.Run.open(folder)
        model = build_model(run.config.replace(seed=fold))
        for layer in model.layers[-1:]:  # the logits: an untrained network is of no opinion
            layer.set_weights([100 * weight for weight in layer.get_weights()])
        weights.save(folder / runs.WEIGHTS, model)


def stored_weights(path: Path) -> dict[str, np.ndarray]:
    """What lies in a weights file, by its place there."""
    import h5py

    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return found


def same_weights(path: Path, other: Path) -> bool:
    """Whether two weights files hold the same, bit for bit."""
    one, two = stored_weights(path), stored_weights(other)
    return len(one) > 0 and one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


class Pretended:
    """In place of lib.probabilities.Network: logits are noise, plus `skill` for the label that a tile's grey tells.

    Big rock is always a little too shy to be the likeliest, as with real networks, so that its offset can help; the
    noise has patches of 4 x 4 pixels, and halves where views are averaged.
    """

    shyness = 1.0

    def predict(self, run, tiles, views, bar, enough=None):
        told = json.loads((run.folder / runs.WEIGHTS).read_text())
        seed = int(hashlib.sha256(told["name"].encode()).hexdigest()[:8], 16)
        for number, (images, masks) in enumerate(tiles.blocks(run)):
            rng = np.random.default_rng([seed, number, masks is None])
            noise = rng.normal(size=(len(images), 16, 32, 5)).repeat(4, axis=1).repeat(4, axis=2)
            logits = noise / len(views) + told["skill"] * np.eye(5)[images // 40]
            logits[..., 4] -= self.shyness
            chances = np.exp(logits)
            yield (chances / chances.sum(axis=-1, keepdims=True)).astype(np.float32), masks
            bar.update(len(images))


def pretend(monkeypatch, shyness: float = 1.0) -> None:
    """From now on no network is built."""
    monkeypatch.setattr(Pretended, "shyness", shyness)
    monkeypatch.setattr(probabilities.Network, "predict", Pretended().predict)


def share_networks(monkeypatch) -> None:
    """From now on all lib.probabilities.Network share what they have compiled."""
    models: dict = {}
    monkeypatch.setattr(probabilities.Network, "__init__", lambda network: vars(network).update(_models=models))


def make_mosaic(places, groups=None) -> Mosaic:
    """A mosaic of tiles that lie at `places` (N + M, 3): frame, row, column, or -1."""
    places = np.array(places, np.int32)
    at = {tuple(place): tile for tile, place in enumerate(places.tolist()) if place[0] >= 0}
    pairs = [
        (tile, at[frame, row + down, column + right], right)
        for (frame, row, column), tile in at.items()
        for down, right in ((0, 1), (1, 0))
        if (frame, row + down, column + right) in at
    ]
    table = np.array(pairs, np.int32).reshape(-1, 3)
    return Mosaic(
        places=places,
        frame=np.array((4, 2), np.int32),
        neighbours=table[:, :2],
        across=table[:, 2] > 0,
        confidence=np.ones(len(table), np.float32),
        fits=np.ones(len(table), bool),
        groups=np.arange(len(places), dtype=np.int32) if groups is None else np.asarray(groups, np.int32),
        thumbnails=np.zeros((len(places), 16, 32), np.uint8),
        key="",
    )
