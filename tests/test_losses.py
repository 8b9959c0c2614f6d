"""Each loss against its formula, worked out in numpy on hand-made pixels."""

import numpy as np
import pytest

from lib.config import Config
from lib.console import UserError
from lib.losses import SegmentationLoss, class_weights

rng = np.random.default_rng(0)
TRUTH = np.array([[[1, 0], [2, 4]], [[1, 3], [0, 1]]])
LOGITS = rng.normal(size=(2, 2, 2, 5)).astype(np.float32)
CHANCES = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
RIGHT = np.take_along_axis(CHANCES, TRUTH[..., None], -1)[..., 0]
LABELLED = TRUTH > 0


def value(**settings) -> float:
    return float(SegmentationLoss(**settings)(TRUTH.astype(np.uint8), LOGITS))


def test_cross_entropy_is_the_report_s_formula_over_labelled_pixels():
    assert value() == pytest.approx(-np.log(RIGHT[LABELLED]).mean(), rel=1e-5)


def test_background_counts_when_it_is_not_ignored():
    assert value(ignore_background=False) == pytest.approx(-np.log(RIGHT).mean(), rel=1e-5)


def test_class_weights_weigh_pixels_by_their_true_class():
    weights = (1.0, 2.0, 3.0, 4.0, 10.0)
    weight = np.array(weights)[TRUTH] * LABELLED
    expected = (weight * -np.log(RIGHT)).sum() / weight.sum()
    assert value(class_weights=weights) == pytest.approx(expected, rel=1e-5)


def test_focal_is_cross_entropy_damped_where_the_answer_is_sure():
    expected = (-((1 - RIGHT) ** 2) * np.log(RIGHT))[LABELLED].mean()
    assert value(cross_entropy=0, focal=1) == pytest.approx(expected, rel=1e-4)


def dice(classes, labelled):
    losses = []
    for label in classes:
        true = (label == TRUTH) & labelled
        answer = CHANCES[..., label] * labelled
        losses.append(1 - 2 * (true * answer).sum() / (true.sum() + answer.sum()))
    return np.mean(losses)


def test_dice_is_the_mean_over_the_classes_that_occur():
    assert value(cross_entropy=0, dice=1) == pytest.approx(dice([1, 2, 3, 4], LABELLED), rel=1e-4)
    everywhere = np.ones_like(LABELLED)
    assert value(cross_entropy=0, dice=1, ignore_background=False) == pytest.approx(
        dice(range(5), everywhere), rel=1e-4
    )


def test_the_sum_is_weighted():
    parts = value(), value(cross_entropy=0, dice=1), value(cross_entropy=0, focal=1)
    together = value(cross_entropy=0.5, dice=2, focal=3)
    assert together == pytest.approx(0.5 * parts[0] + 2 * parts[1] + 3 * parts[2], rel=1e-5)


@pytest.mark.parametrize("term", ["cross_entropy", "dice", "focal"])
def test_unlabelled_pixels_change_nothing(term):
    settings = dict(cross_entropy=0.0, dice=0.0, focal=0.0) | {term: 1.0}
    other = LOGITS.copy()
    other[~LABELLED] += rng.normal(size=(2, 5))
    assert float(SegmentationLoss(**settings)(TRUTH, other)) == pytest.approx(value(**settings), rel=1e-6)


@pytest.mark.parametrize("term", ["cross_entropy", "dice", "focal"])
def test_a_batch_without_labels_costs_nothing(term):
    settings = dict(cross_entropy=0.0, dice=0.0, focal=0.0) | {term: 1.0}
    assert float(SegmentationLoss(**settings)(np.zeros_like(TRUTH), LOGITS)) == 0


@pytest.mark.parametrize("settings", [dict(dice=-0.1), dict(cross_entropy=0.0)])
def test_impossible_weights_are_refused(settings):
    with pytest.raises(UserError):
        SegmentationLoss(**settings)


def test_config_round_trip():
    loss = SegmentationLoss(0.3, 0.2, 0.1, (1.0, 2.0, 3.0, 4.0, 5.0), False)
    assert SegmentationLoss.from_config(loss.get_config()).get_config() == loss.get_config()


def test_inverse_class_weights_are_capped():
    masks = np.repeat([0, 1, 2, 3, 4], [50, 100, 50, 20, 1])
    weights = class_weights(Config(class_weights="inverse", class_weight_cap=10.0), masks)
    assert weights[1:] == (1.0, 2.0, 5.0, 10.0)


def test_a_class_without_pixels_weighs_one():
    assert class_weights(Config(class_weights="inverse"), np.array([1, 1, 2]))[3:] == (1.0, 1.0)


def test_given_class_weights():
    assert class_weights(Config(class_weights="given", given_weights=(0.0, 1.0, 1.0, 1.0, 7.0)), TRUTH)[4] == 7
    assert class_weights(Config(), TRUTH) == (1.0,) * 5


def test_dice_leaves_out_a_class_that_does_not_occur():
    without_sand = np.where(TRUTH == 3, 1, TRUTH)
    losses = []
    for label in (1, 2, 4):
        true, answer = (label == without_sand), CHANCES[..., label] * LABELLED
        losses.append(1 - 2 * (true * answer).sum() / (true.sum() + answer.sum()))
    assert float(SegmentationLoss(0, dice=1)(without_sand, LOGITS)) == pytest.approx(np.mean(losses), rel=1e-4)


def test_dice_counts_its_classes_as_they_weigh():
    alone = [dice([label], LABELLED) for label in (1, 2, 3, 4)]
    expected = np.average(alone, weights=(1, 2, 3, 10))
    assert value(cross_entropy=0, dice=1, class_weights=(7.0, 1.0, 2.0, 3.0, 10.0)) == pytest.approx(expected, rel=1e-4)


def test_class_weights_are_relative_to_the_commonest_class_that_counts():
    masks = np.repeat([0, 1, 2], [90, 30, 10])
    ignored = Config(class_weights="inverse")
    assert class_weights(ignored, masks)[:3] == (1.0, 1.0, 3.0)
    assert class_weights(ignored.replace(ignore_background=False), masks)[:3] == (1.0, 3.0, 9.0)
