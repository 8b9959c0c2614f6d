"""Weights files: the network's own, by name, whole and finite; anything else is refused."""

import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from lib import weights
from lib.console import UserError
from lib.experiments import make_config
from lib.models import build_model


def network(seed=1, **changes):
    config = make_config("seventh", tiny=True)
    return build_model(config.replace(**{**dict(width=2, depth=1, nesting=1, dspp_rates=(), seed=seed), **changes}))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The weights of a network of two U-Nets with attention, dropout and transformers, and the network."""
    path = tmp_path_factory.mktemp("weights") / "best.weights.h5"
    model = network(nesting=2, dropout=0.1, transformer="bottleneck")
    weights.save(path, model)
    return path, model


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copy(saved[0], tmp_path / "best.weights.h5"))


def test_weights_come_back(saved):
    path, model = saved
    other = network(seed=2, nesting=2, dropout=0.1, transformer="bottleneck")
    assert any(not np.array_equal(*pair) for pair in zip(model.get_weights(), other.get_weights()))
    weights.load(path, other)
    for one, two in zip(model.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("stored", "wanted", "message"),
    [
        (dict(nesting=2), dict(), "weights for unet2_.*, which it has not"),
        (dict(), dict(nesting=2), "no weights for unet2_"),
        (dict(transformer="coarsest"), dict(), "weights for unet1_transformer_encoder, which it has not"),
        (dict(width=3), dict(), "best.weights.h5: does not fit"),
    ],
)
def test_weights_of_another_network(tmp_path, stored, wanted, message):
    """Keras itself loads the first U-Net of two into the only one, and goes on with what it holds."""
    weights.save(tmp_path / "best.weights.h5", network(**stored))
    with pytest.raises(UserError, match=message):
        weights.load(tmp_path / "best.weights.h5", network(**wanted))


def test_layers_that_changed_places(tmp_path):
    """Two layers of one class and shape, built in another order: Keras gives each the other's weights."""

    def model(*names):
        features = tiles = keras.Input((4, 4, 2))
        for name in names:
            features = keras.layers.Conv2D(2, 1, name=name)(features)
        return keras.Model(tiles, features)

    weights.save(tmp_path / "best.weights.h5", model("one", "two"))
    weights.load(tmp_path / "best.weights.h5", model("one", "two"))
    with pytest.raises(UserError, match="(one|two) stands in another place"):
        weights.load(tmp_path / "best.weights.h5", model("two", "one"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(copy, saved, value):
    with h5py.File(copy, "r+") as file:
        (layer,) = (group for group in file["layers"].values() if group["vars"].attrs["name"] == "logits")
        layer["vars"]["1"][3] = value
    with pytest.raises(UserError, match=r"best.weights.h5: layer logits holds NaN or infinity"):
        weights.load(copy, saved[1])


def test_one_name_for_two_layers(copy, saved):
    with h5py.File(copy, "r+") as file:
        for group in file["layers"].values():
            group["vars"].attrs["name"] = "logits"
    with pytest.raises(UserError, match="logits is in it twice"):
        weights.load(copy, saved[1])


@pytest.mark.parametrize("cut", [0, 100, 5000, -10])
def test_cut_off_weights(copy, saved, cut):
    copy.write_bytes(copy.read_bytes()[:cut])
    with pytest.raises(UserError, match="best.weights.h5: does not fit the network of its config"):
        weights.load(copy, saved[1])


def test_no_room(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(UserError, match="best.weights.h5: .* do not fit on the disk"):
        weights.save(tmp_path / "best.weights.h5", saved[1])
    assert not list(tmp_path.iterdir())
