"""The masks that infer.py writes are what the networks say: worked out again from the weights, in plain numpy."""

import sys

import numpy as np
import pytest

import infer
import train
from lib import terrain
from lib.models import build_model
from lib.runs import Run

SMALL = (
    "width=4", "depth=1", "nesting=1", "dspp_rates=", "attention=none", "folds=2", "epochs=3", "batch_size=8",
    "learning_rate=0.02", "views=identity,hflip,shift(0,24),shift(-9,0)",
)  # fmt: skip


def call(script, *arguments) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script.__name__, *map(str, arguments), "--quiet"])
        script.main()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two folds of a small network, and the data that they were trained on."""
    folder = tmp_path_factory.mktemp("infer")
    np.savez(folder / "data.npz", **terrain.generate(seed=1, train=24, test=12))
    call(
        train, "seventh", "--tiny", "--data", folder / "data.npz", "--runs", folder / "runs", "--fold", "all",
        "--set", *SMALL,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def chances(folder):
    """Probabilities (fold, view, tile, H, W, 5) of the test tiles, NaN where a view did not see a pixel."""
    tiles = np.load(folder / "data.npz")["test_set"]
    found = []
    for fold in range(2):
        run = Run.open(folder / "runs" / "seventh" / f"fold_{fold}")
        model = build_model(run.config)
        run.weights(model)

        def see(tiles, model=model):
            logits = np.asarray(model.predict_on_batch(np.ascontiguousarray(tiles)), np.float64)
            odds = np.exp(logits - logits.max(-1, keepdims=True))
            return odds / odds.sum(-1, keepdims=True)

        right, up = (np.full((*tiles.shape, 5), np.nan) for _ in range(2))
        mirrored = np.pad(tiles, ((0, 0), (9, 9), (24, 24)), "symmetric")
        right[:, :, :104] = see(mirrored[:, 9:-9, :128])[:, :, 24:]
        up[:, 9:] = see(mirrored[:, 18:, 24:-24])[:, :55]
        found.append([see(tiles), see(tiles[:, :, ::-1])[:, :, ::-1], right, up])
    return np.array(found)


def masks_of(folder, *arguments) -> np.ndarray:
    out = folder / "masks.npz"
    call(infer, *arguments, "--data", folder / "data.npz", "--out", out)
    with np.load(out) as made:
        return made["masks"]


def assert_answer(masks, chances, lowest=1) -> None:
    """The masks are the likeliest class from `lowest` on wherever that is no near tie (stored chances are rounded)."""
    ranked = np.sort(chances[..., lowest:], axis=-1)
    sure = ranked[..., -1] - ranked[..., -2] > 0.02
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(masks[sure], (chances[..., lowest:].argmax(-1) + lowest)[sure])


def test_masks_are_the_plain_answer_without_tta(folder, chances):
    masks = masks_of(folder, folder / "runs" / "seventh" / "fold_1")
    assert_answer(masks, chances[1, 0])
    with pytest.raises(AssertionError):
        assert_answer(masks, chances[0, 0])


def test_masks_are_the_averaged_views_with_tta(folder, chances):
    averaged = np.nanmean(chances, axis=1)
    masks = masks_of(folder, folder / "runs" / "seventh" / "fold_0", "--tta")
    assert_answer(masks, averaged[0])
    # and not what one view or three say
    for others in ([0], [1], [0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]):
        with pytest.raises(AssertionError):
            assert_answer(masks, np.nanmean(chances[0, others], axis=0))


def test_masks_of_two_runs_are_those_of_their_mean(folder, chances):
    masks = masks_of(folder, folder / "runs" / "seventh", "--tta")
    assert_answer(masks, np.nanmean(chances, axis=1).mean(axis=0))
    for alone in range(2):
        with pytest.raises(AssertionError):
            assert_answer(masks, np.nanmean(chances[alone], axis=0))
