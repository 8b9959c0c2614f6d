"""Priors: what is added to logits, and that what is kept, scored and stored has it."""

import numpy as np
import pytest
from test_training import AVERAGED, tiny_config, tiny_data, train

from lib import runs
from lib.models import build_model
from lib.priors import corrected, correction


def labels(*counts: int) -> np.ndarray:
    return np.repeat(np.arange(5, dtype=np.uint8), counts)[None]


def test_the_ratio_of_what_is_there_to_what_is_shown():
    added = correction(labels(9, 40, 40, 10, 10), labels(50, 50, 40, 9, 1), (1.0,) * 5, True)
    np.testing.assert_allclose(added, [0, *np.log([50 / 40, 1, 9 / 10, 1 / 10])], rtol=1e-6)
    assert added.dtype == np.float32


def test_a_weight_counts_as_often_as_it_weighs():
    once, tenfold = (
        correction(labels(0, 50, 50, 50, rocks), labels(0, 50, 50, 50, 5), (1, 1, 1, 1, weight), True)
        for rocks, weight in ((50, 1.0), (5, 10.0))
    )
    np.testing.assert_allclose(once, tenfold, rtol=1e-6)


def test_background_counts_where_the_loss_counts_it():
    shown, there = labels(10, 30, 30, 20, 10), labels(40, 30, 20, 9, 1)
    assert correction(shown, there, (1.0,) * 5, True)[0] == 0
    np.testing.assert_allclose(correction(shown, there, (1.0,) * 5, False)[0], np.log(4), rtol=1e-6)


@pytest.mark.parametrize("there", [labels(5, 50, 45, 0, 0), labels(0, 0, 0, 0, 9)])
def test_a_class_that_is_nowhere_is_left_alone(there):
    added = correction(labels(5, 40, 40, 10, 0), there, (1.0,) * 5, True)
    assert (
        np.isfinite(added).all()
        and (added[there.sum() == 0 or np.bincount(there.ravel(), minlength=5) == 0] == 0).all()
    )


def test_a_network_knows_the_priors_within_the_block_alone():
    model = build_model(tiny_config())
    tile = tiny_data().images[:1]
    before, bias = np.asarray(model(tile)), model.get_layer("logits").bias.numpy()
    with corrected(model, np.array([0, 1, 2, 3, -4], np.float32)):
        np.testing.assert_allclose(np.asarray(model(tile)) - before, 0 * before + [0, 1, 2, 3, -4], atol=1e-4)
    np.testing.assert_array_equal(model.get_layer("logits").bias.numpy(), bias)


def test_what_is_kept_and_scored_is_corrected_and_training_is_not(tmp_path):
    """Two networks that train alike; one is told how rare bedrock is."""
    weighted = dict(class_weights="given", given_weights=(1.0, 1.0, 50.0, 1.0, 1.0))
    settings = dict(**AVERAGED, **weighted, keep="last", copy_paste=0.0)
    both = {prior: train(tmp_path / prior, tiny_config(**settings, prior=prior)) for prior in ("shown", "fold")}
    biases = []
    for prior in both:
        run = runs.Run.open(tmp_path / prior)
        model = run.build_model()
        run.weights(model)
        biases.append(model.get_layer("logits").bias.numpy())
        losses = [row["loss"] for row in run.history()]
        assert losses == [row["loss"] for row in runs.Run.open(tmp_path / "shown").history()]
    added = biases[1] - biases[0]
    assert added[0] == 0 and added[2] < -0.5 < 0.5 < np.delete(added, [0, 2, 4]).min()
    confusions = [np.array(metrics.confusion) for metrics in both.values()]
    assert confusions[1][:, 2].sum() < confusions[0][:, 2].sum()
    assert both["fold"].mean_iou == pytest.approx(runs.Run.open(tmp_path / "fold").history()[-1]["mean_iou"], abs=1e-9)
