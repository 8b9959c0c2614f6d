"""Averaging over views and members, by a network whose answer is known."""

import keras
import numpy as np
import pytest

from lib.console import UserError
from lib.predict import PLAIN, UNSETTLED, EarlyExit, labels, predict_probabilities, probability_model

VIEWS = ("identity", "hflip", "shift(0,8)", "shift(-4,3)", "hflip+shift(2,-5)")
rng = np.random.default_rng(0)
TILES = rng.integers(0, 256, (70, 8, 16)).astype(np.uint8)


def pixelwise(scale=1.0):
    """A network that answers each pixel by its own grey value alone, so every view must agree."""
    tiles = keras.Input((None, None))
    layer = keras.layers.Conv2D(5, 1, name="answer")
    model = keras.Model(tiles, layer(keras.layers.Rescaling(1 / 255)(tiles[..., None])))
    layer.set_weights([np.arange(5.0).reshape(1, 1, 1, 5) * scale, np.zeros(5)])
    return model


def test_views_of_a_pixelwise_network_all_agree():
    model = probability_model(pixelwise())
    plain = predict_probabilities(model, TILES)
    assert plain.shape == (70, 8, 16, 5)
    np.testing.assert_allclose(plain.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(predict_probabilities(model, TILES, VIEWS), plain, rtol=1e-4)


def test_mirrored_pixels_have_no_vote():
    """A network that answers by the column: a shifted view says something else, and only where it really saw."""

    class Column:
        def predict_on_batch(self, tiles):
            columns = np.arange(tiles.shape[2]) / tiles.shape[2]
            maps = np.zeros((*tiles.shape, 5), np.float32)
            maps[..., 1], maps[..., 2] = columns, 1 - columns
            return maps

    averaged = predict_probabilities(Column(), TILES[:1], ("identity", "shift(0,4)"))[0, 0, :, 1]
    own, shifted = np.arange(16) / 16, (np.arange(16) + 4) / 16
    np.testing.assert_allclose(averaged[:12], (own[:12] + shifted[:12]) / 2, rtol=1e-6)
    np.testing.assert_allclose(averaged[12:], own[12:], rtol=1e-6)


def test_every_pixel_must_be_seen():
    with pytest.raises(UserError, match="add identity"):
        predict_probabilities(probability_model(pixelwise()), TILES, ("shift(0,4)",))


def test_a_network_that_answers_nan_is_named():
    """One class of one pixel: everywhere else the labels would look as good as ever."""
    model = pixelwise()
    predict_probabilities(probability_model(model), TILES, PLAIN, "runs/good")
    model.set_weights([np.where(np.arange(5) == 4, np.nan, weight) for weight in model.get_weights()])
    with pytest.raises(UserError, match="runs/bad: answers NaN"):
        predict_probabilities(probability_model(model), TILES, PLAIN, "runs/bad")


class Certain:
    """A network that is as sure of soil, before sand, as a tile's first pixel says in percent; counts its tiles."""

    def __init__(self):
        self.asked = []

    def predict_on_batch(self, tiles):
        self.asked.append(np.unique(tiles[:, 0, 0]).tolist())
        sure = np.broadcast_to(tiles[:, :1, :1] / 100, tiles.shape)
        nothing = np.zeros_like(sure)
        return np.stack([nothing, sure, nothing, 1 - sure, nothing], axis=-1).astype(np.float32)


def test_a_settled_tile_is_left_out_of_further_views():
    margins = np.array([0.31, 0.62, 0.1, 0.42])  # the two left after the first view are no neighbours
    tiles = np.broadcast_to((50 + 50 * margins)[:, None, None], (4, 8, 16)).round().astype(np.uint8)
    network, enough = Certain(), EarlyExit()
    views = ("identity", "hflip", "vflip")
    found = predict_probabilities(network, tiles, views, enough=enough)
    # Margins needed: two thirds of MARGIN after the first view, a third after the second
    asked = [sorted(tile[0, 0] for tile, margin in zip(tiles, margins) if margin <= need) for need in (1, 0.4, 0.2)]
    assert network.asked == asked and [len(one) for one in asked] == [4, 2, 1]
    assert enough.saved == 2 + 2 + 1
    np.testing.assert_allclose(found, predict_probabilities(Certain(), tiles, views), rtol=1e-6)  # views all agree


def test_few_pixels_do_not_keep_a_tile_from_being_settled():
    total = np.zeros((2, 10, 20, 5), np.float32)
    total[..., 2] = 1
    few = int(UNSETTLED * 200)
    total[0].reshape(-1, 5)[:few] = 0, 0, 0.5, 0.5, 0
    total[1].reshape(-1, 5)[: few + 1] = 0, 0, 0.5, 0.5, 0
    enough = EarlyExit()
    assert enough(total, np.ones((10, 20), np.float32), 1).tolist() == [True, False]
    assert enough.saved == 1


def test_a_background_counts_for_settling_only_where_it_may_be_predicted():
    total = np.broadcast_to(np.array([0.49, 0.5, 0.01, 0, 0], np.float32), (1, 4, 4, 5))
    votes = np.ones((4, 4), np.float32)
    assert EarlyExit()(total, votes, 1).all() and not EarlyExit(background=True)(total, votes, 1).any()


def test_an_unseen_pixel_keeps_all_tiles_asked_for():
    network = Certain()
    tiles = np.full((1, 8, 64), 99, np.uint8)
    assert UNSETTLED >= 1 / 64  # one column is unseen at first, and open pixels as few would not keep the tile
    predict_probabilities(network, tiles, ("shift(0,1)", "identity", "hflip"), enough=EarlyExit())
    assert len(network.asked) == 2  # after the second, every pixel was seen


def test_background_is_predicted_only_when_asked():
    chances = np.array([[0.6, 0.1, 0.1, 0.15, 0.05], [0.1, 0.1, 0.6, 0.1, 0.1]])
    assert labels(chances).tolist() == [3, 2]
    assert labels(chances, background=True).tolist() == [0, 2]
    assert labels(chances).dtype == np.uint8
