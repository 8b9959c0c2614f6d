"""Tuning is judged where it was not tuned: noise gains nothing, and each fold is judged by what the others say."""

import numpy as np
import pytest

from lib import nested
from lib.bootstrap import draw
from lib.decision import Rule, decide
from lib.metrics import mean_iou, tile_confusions
from lib.neighbours import EXPONENT, informed
from lib.nested import tune


class Kept:
    """Probabilities of tiles as a store has them."""

    def __init__(self, tiles, probabilities):
        self.tiles, self._probabilities = np.asarray(tiles), probabilities

    def read(self, start, stop):
        return self._probabilities[start:stop]


def world(
    count: int, skill: float, shy: float = 0.0, shares=(0, 0.25, 0.25, 0.25, 0.25), seed: int = 0, noise: int = 0
):
    """Masks (count, 64, 128) in patches of 16 x 16, and probabilities that know them by `skill`."""
    rng = np.random.default_rng(seed)
    masks = rng.choice(5, (count, 4, 8), p=shares)
    logits = np.random.default_rng([seed, noise]).normal(size=(count, 4, 8, 5)) + skill * np.eye(5)[masks]
    logits[..., 4] -= shy
    chances = np.exp(logits)
    chances /= chances.sum(axis=-1, keepdims=True)
    return [
        array.repeat(16, axis=1).repeat(16, axis=2) for array in (masks.astype(np.uint8), chances.astype(np.float32))
    ]


def gain(tuned, after: str = "decided"):
    before = draw(np.stack([tuned.average, getattr(tuned, after)]), np.arange(len(tuned.average)), 500)
    return before[1].minus(before[0])[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_decision_tuned_on_noise_gains_nothing(seed):
    """Classes are equally common and the network knows nothing: by symmetry no rule is better than another."""
    masks, chances = world(20, skill=0, seed=seed)
    tiles = np.arange(20)
    tuned = tune([[Kept(tiles, chances)]], tiles, tiles % 5, masks)
    seen = tile_confusions(masks, decide(chances, tuned.rule))
    assert mean_iou(seen.sum(axis=0)) > mean_iou(tuned.average.sum(axis=0)) + 0.002  # where it was tuned it seems to
    assert gain(tuned).verdict != "better"


def test_a_shy_class_gains_by_its_offset():
    masks, chances = world(40, skill=1.5, shy=2.5, shares=(0.1, 0.3, 0.3, 0.2, 0.1))
    tiles = np.arange(40)
    tuned = tune([[Kept(tiles, chances)]], tiles, tiles % 4, masks)
    assert tuned.rule.offsets[3] > 0.5 and gain(tuned).verdict == "better"
    np.testing.assert_array_equal(tuned.selected, tuned.average)  # a lone member has no weight to tune


def test_each_fold_is_judged_by_what_the_others_say(monkeypatch):
    masks, chances = world(12, skill=1, shares=(0.2, 0.2, 0.2, 0.2, 0.2))
    tiles, folds = np.arange(12) + 30, np.arange(12) // 4
    everywhere = np.zeros((50, 64, 128), np.uint8)
    everywhere[tiles] = masks
    scored = [(masks[:, ::2, ::2] > 0)[kept].sum() for kept in (folds >= 0, folds != 0, folds != 1, folds != 2)]
    answers = [np.array([0, 0, 0, value]) for value in (0.0, -4.0, 4.0, 0.5)]
    asked = []

    def offsets(chances, truth):
        asked.append(len(truth))
        return answers[len(asked) - 1]

    monkeypatch.setattr(nested, "tune_offsets", offsets)
    monkeypatch.setattr("lib.nested.LEAST", (0,))
    monkeypatch.setattr("lib.decision.LEAST", (0,))
    tuned = tune([[Kept(tiles, chances)]], tiles, folds, everywhere)
    assert asked == scored
    for fold in range(3):
        own = Rule(offsets=tuple(answers[fold + 1].tolist()), least_blob=0)
        expected = tile_confusions(masks, decide(chances, own))
        np.testing.assert_array_equal(tuned.decided[folds == fold], expected[folds == fold])
    assert tuned.rule.offsets == (0, 0, 0, 0)  # the one of all folds


def test_the_smallest_blob_is_chosen_on_the_other_folds_too(monkeypatch):
    """Tiny rocks are false in the folds 0 and 1, and right in fold 2, which has three times as many of them."""
    folds, masks = np.arange(9) // 3, np.ones((9, 64, 128), np.uint8)
    masks[:, :, 64:] = 4
    said = masks.copy()
    masks[6:, 10:19:4, 10:20] = said[6:, 10:19:4, 10:20] = said[:6, 10, 10:20] = 4
    chances = np.where(said[..., None] == np.arange(5), 0.8, 0.05).astype(np.float32)
    monkeypatch.setattr(nested, "tune_offsets", lambda *_: np.zeros(4))
    tuned = tune([[Kept(np.arange(9), chances)]], np.arange(9), folds, masks)
    wrong = tuned.decided[:, 1, 4] + tuned.decided[:, 4, 1]
    assert tuned.rule.least_blob == 0  # most of them are right
    assert wrong.tolist() == [10] * 6 + [30] * 3  # but not what the other folds say of fold 2


def test_members_are_weighted_and_each_one_s_part_is_told():
    masks, good = world(20, skill=2, noise=1)
    _, fair = world(20, skill=1.5, noise=2)
    _, bad = world(20, skill=-1, noise=3)
    tiles = np.arange(20)
    stores = [[Kept(tiles[:8], chances[:8]), Kept(tiles[8:], chances[8:])] for chances in (good, fair, bad)]
    tuned = tune(stores, tiles, tiles % 4, masks)
    assert tuned.weights[2] == 0 and (tuned.weights[:2] > 0).all()
    assert gain(tuned, "selected").verdict == "better"
    lost = [mean_iou(tuned.selected.sum(axis=0)) - mean_iou(one.sum(axis=0)) for one in tuned.without]
    assert lost[0] > lost[1] > 0 == lost[2]


def test_tiles_are_read_in_blocks_whatever_the_folds(monkeypatch):
    masks, chances = world(10, skill=1, shares=(0.2, 0.2, 0.2, 0.2, 0.2))
    tiles, folds = np.arange(10), np.arange(10) % 2
    whole = tune([[Kept(tiles[::2], chances[::2]), Kept(tiles[1::2], chances[1::2])]], tiles, folds, masks)
    monkeypatch.setattr(nested, "CHUNK", 3)
    parts = tune([[Kept(tiles, chances)]], tiles, folds, masks)
    assert parts.rule == whole.rule
    np.testing.assert_array_equal(parts.decided, whole.decided)


class Hints:
    """What neighbours say of tiles, as lib.neighbours.Clues has it."""

    def __init__(self, values):
        self._values = values

    def log_likelihood(self, tiles):
        return self._values[tiles]


def hints(masks, skill: float, seed: int = 9) -> Hints:
    """Log-likelihoods that know the masks by `skill`, in patches."""
    noise = np.random.default_rng(seed).normal(size=(len(masks), 4, 8, 4)).repeat(16, axis=1).repeat(16, axis=2)
    return Hints((noise + skill * np.eye(5)[masks][..., 1:]).astype(np.float32))


def test_neighbours_that_know_count_and_those_that_do_not_are_dropped():
    masks, chances = world(40, skill=1.0)
    tiles = np.arange(40)
    without = tune([[Kept(tiles, chances)]], tiles, tiles % 4, masks)
    helped = tune([[Kept(tiles, chances)]], tiles, tiles % 4, masks, hints(masks, 2.0))
    assert without.rule.exponent == 0 and helped.rule.exponent >= 0.5
    assert mean_iou(helped.decided.sum(axis=0)) > mean_iou(without.decided.sum(axis=0)) + 0.1
    misled = tune([[Kept(tiles, chances)]], tiles, tiles % 4, masks, hints(masks, -2.0))
    assert misled.rule.exponent == 0 and gain(misled).verdict == "better"  # than with what misleads
    np.testing.assert_array_equal(misled.decided, without.decided)


def test_what_is_tuned_with_neighbours_is_what_decides_with_them():
    masks, chances = world(20, skill=1.0)
    tiles, clues = np.arange(20), hints(masks, 1.0)
    tuned = tune([[Kept(tiles, chances)]], tiles, tiles % 2, masks, clues)
    average = decide(informed(chances, clues.log_likelihood(tiles), EXPONENT), Rule(offsets=(0,) * 4, least_blob=0))
    np.testing.assert_array_equal(tuned.average, tile_confusions(masks, average))


def test_the_exponent_is_tuned_on_the_other_folds_too():
    """One fold's neighbours lie, the other's say the truth; each is judged by how far the other's are to be trusted."""
    masks, chances = world(40, skill=1.0)
    tiles = np.arange(40)
    folds, lying = tiles % 2, tiles % 2 == 1
    values = hints(masks, 2.0).log_likelihood(tiles)
    values[lying] = hints(masks, -3.0).log_likelihood(tiles)[lying]
    tuned = tune([[Kept(tiles, chances)]], tiles, folds, masks, Hints(values))
    for judged in (lying, ~lying):
        others = tiles[~judged]
        rule = tune([[Kept(tiles, chances)]], others, others // 2 % 2, masks, Hints(values)).rule
        assert (rule.exponent > 0.4) == judged[1]
        answer = decide(informed(chances[judged], values[judged], rule.exponent), rule)
        np.testing.assert_array_equal(tuned.decided[judged], tile_confusions(masks[judged], answer))
