"""Labels from probabilities: offsets against direct search, blobs by hand, and decisions for other runs refused."""

import itertools

import numpy as np
import pytest

from lib.bootstrap import SCORED, Interval
from lib.console import UserError
from lib.decision import (
    ARGMAX,
    GRID,
    LEAST,
    Decision,
    Gain,
    Member,
    Rule,
    _scores_along,
    confusions_by_blob,
    decide,
    tune_offsets,
    without_blobs,
)
from lib.metrics import confusion_matrix, mean_iou, tile_confusions
from lib.predict import labels

rng = np.random.default_rng(0)


def chances(*shape: int, seed: int = 0) -> np.ndarray:
    """Random probabilities (*shape, 5) float32 in patches, so that there are blobs of all sizes."""
    logits = np.random.default_rng(seed).normal(size=(*shape, 5)).cumsum(axis=-2) / 4
    found = np.exp(logits)
    return (found / found.sum(axis=-1, keepdims=True)).astype(np.float32)


def rule(*offsets: float, least: int = 0) -> Rule:
    return Rule(offsets=offsets, least_blob=least)


def test_without_offsets_the_likeliest_class_wins_and_background_never():
    found = chances(3, 16, 32)
    np.testing.assert_array_equal(decide(found, ARGMAX), labels(found))
    assert decide(np.array([[[[0.9, 0.04, 0.03, 0.02, 0.01]]]]), ARGMAX).tolist() == [[[1]]]


@pytest.mark.parametrize(
    ("offsets", "label"),
    [((0, 0, 0, 0), 1), ((0, 0.6, 0, 0), 2), ((0, 0.4, 0, 0), 1), ((0, 0, 0, 1.7), 4), ((-1.0, 0, 0, 0), 2)],
)
def test_offsets_are_factors_of_the_probabilities(offsets, label):
    pixel = np.array([[[[0, 0.5, 0.3, 0.1, 0.1]]]], np.float32)  # ln(0.5 / 0.3) = 0.51, ln(0.5 / 0.1) = 1.61
    assert decide(pixel, rule(*map(float, offsets))).item() == label


def test_no_offset_makes_the_impossible_likely():
    assert decide(np.array([[[[0, 1, 0, 0, 0]]]], np.float32), rule(0.0, 4.0, 4.0, 4.0)).item() == 1


def test_small_blobs_of_rock_go_to_the_runner_up():
    answer = np.ones((2, 6, 6), np.uint8)
    answer[0, 0, 0] = 4  # alone
    answer[0, [2, 3, 4], [2, 3, 4]] = 4  # three that touch at corners
    answer[0, 5, 0] = 2  # another class's small blob stays
    runner_up = np.full_like(answer, 3)
    cleaned = without_blobs(answer, runner_up, 3)
    expected = answer.copy()
    expected[0, 0, 0] = 3
    np.testing.assert_array_equal(cleaned, expected)
    assert not (without_blobs(answer, runner_up, 4) == 4).any()
    for least in (0, 1):
        np.testing.assert_array_equal(without_blobs(answer, runner_up, least), answer)


def test_the_runner_up_is_the_next_by_the_same_offsets():
    pixel = np.array([[[[0, 0.2, 0.3, 0.1, 0.4]]]], np.float32)
    assert decide(pixel, rule(0.0, 0.0, 0.0, 0.0, least=2)).item() == 2
    assert decide(pixel, rule(0.0, -0.5, 0.0, 0.0, least=2)).item() == 1


def test_matrices_by_blob_size_are_those_of_the_rule():
    found, truth = chances(3, 64, 128), rng.integers(0, 5, (3, 64, 128))
    offsets = (0.0, 0.2, -0.3, 0.5)
    matrices = confusions_by_blob(truth, found, np.array(offsets))
    for place, least in enumerate(LEAST):
        answer = decide(found, rule(*offsets, least=least))
        np.testing.assert_array_equal(matrices[:, place], tile_confusions(truth, answer))
    assert len({matrix.tobytes() for matrix in matrices[0]}) > 2  # the sizes make a difference


def test_matrices_by_tile_are_the_matrix_of_each():
    truth, answer = rng.integers(0, 5, (2, 4, 6, 6))
    expected = [confusion_matrix(*pair) for pair in zip(truth, answer)]
    np.testing.assert_array_equal(tile_confusions(truth, answer), expected)


def score(found: np.ndarray, truth: np.ndarray, offsets: np.ndarray) -> float:
    answer = (np.log(found) + offsets[:, None]).argmax(axis=0) + 1
    return mean_iou(confusion_matrix(truth, answer))


def pixels(count: int = 4000, seed: int = 0, shy: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    """Chances (4, P) and truth (P,): a rare last class to which the network gives too little."""
    random = np.random.default_rng(seed)
    truth = random.choice([1, 2, 3, 4], count, p=[0.5, 0.3, 0.17, 0.03])
    logits = random.normal(size=(4, count)) + 1.5 * (truth == np.arange(1, 5)[:, None])
    logits[3] -= shy
    return (np.exp(logits) / np.exp(logits).sum(axis=0)).astype(np.float32), truth


@pytest.mark.parametrize("moved", [1, 2, 3])
def test_a_line_of_the_search_is_what_each_offset_scores(moved):
    found, truth = pixels()
    offsets = np.array([0, 0.3, -0.4, 0.7])
    along = _scores_along(np.log(found), truth - 1, offsets, moved)
    direct = [score(found, truth, np.where(np.arange(4) == moved, value, offsets)) for value in GRID]
    np.testing.assert_allclose(along, direct, atol=1e-4)


def test_offsets_reach_what_trying_everything_reaches():
    found, truth = pixels(1500)
    tuned = tune_offsets(found, truth)
    coarse = np.arange(-2, 2.1, 0.5)
    best = max(score(found, truth, np.array([0, *rest])) for rest in itertools.product(coarse, repeat=3))
    assert tuned[0] == 0
    assert score(found, truth, tuned) >= best - 0.002
    assert score(found, truth, tuned) > score(found, truth, np.zeros(4)) + 0.01


def test_offsets_that_change_nothing_stay_at_zero():
    truth = rng.integers(1, 5, 100)
    certain = np.eye(4, dtype=np.float32)[truth - 1].T
    assert tune_offsets(certain, truth).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "values", [dict(offsets=(0.0, 0.0, 0.0, 4.1), least_blob=0), dict(offsets=(0.0, 0.0, 0.0), least_blob=0),
               dict(offsets=(0.0,) * 4, least_blob=-1)],
)  # fmt: skip
def test_rules_beyond_reason_are_refused(values):
    with pytest.raises(UserError, match="decision.json"):
        Rule.check(values, "decision.json", "tune it anew")


PLAIN = ("identity",)
DIGEST = "d" * 64


def decision() -> Decision:
    members = (
        Member(name="first", runs={"first/fold_0": "a", "first/fold_1": "b"}, views=PLAIN, weight=0.75),
        Member(name="second", runs={"second/fold_0": "c"}, views=("identity", "hflip"), weight=0.25),
    )
    gains = {name: Gain(argmax=0.5, tuned=0.52, low=0.01, high=0.03) for name in SCORED}
    return Decision(data=DIGEST, members=members, rule=rule(0.0, 0.1, 0.0, 1.0, least=16), folds=2, gains=gains)


def test_a_decision_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "decision.json"
    path.write_text(decision().to_json())
    assert Decision.read(path, "tune it anew") == decision()
    assert decision().gain.proven and decision().gain.interval().value == pytest.approx(0.02)


RUNS = [("b", PLAIN), ("a", PLAIN), ("c", ("identity", "hflip"))]


def test_a_member_s_weight_is_shared_among_its_runs(tmp_path):
    assert decision().shares(tmp_path, DIGEST, RUNS) == [0.375, 0.375, 0.25]


@pytest.mark.parametrize(
    ("data", "runs", "words"),
    [
        ("e" * 64, RUNS, "other data"),
        (DIGEST, RUNS[:2], "other runs"),
        (DIGEST, [*RUNS, ("x", PLAIN)], "other runs"),
        (DIGEST, [("trained again", PLAIN), *RUNS[1:]], "other weights of these"),
        (DIGEST, [*RUNS[:2], ("c", PLAIN)], "other views, identity and identity,hflip"),
    ],
)
def test_a_decision_for_something_else_is_refused(data, runs, words):
    with pytest.raises(
        UserError, match=rf"decision.json: tuned for .*{words}.* \(of first second\); tune it: python judge.py"
    ):
        decision().shares("decision.json", data, runs)


@pytest.mark.parametrize(("low", "proven"), [(0.001, True), (0.0, False), (-0.01, False), (float("nan"), False)])
def test_a_gain_is_proven_by_its_whole_interval(low, proven):
    gain = Gain.of(0.5, 0.6, Interval(0.1, low, 0.2))
    assert gain.proven == proven
    assert Gain.model_validate_json(gain.model_dump_json()) == gain
