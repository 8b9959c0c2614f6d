"""Weights and decision rule of an ensemble, tuned on all validation tiles, and judged where they were not tuned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lib.decision import ARGMAX, LEAST, Rule, confusions_by_blob, decide, tune_offsets
from lib.ensembles import Selection
from lib.metrics import mean_iou, tile_confusions
from lib.probabilities import Stored, mean

THIN = 2  # weights and offsets are sought on every second row and column, 62 MB a member: neighbours are alike
CHUNK = 64  # tiles of all members that are held at a time


@dataclass(frozen=True)
class Tuned:
    """What tuning found, and what it is worth on N tiles.

    `weights` (S,) and `rule` were tuned on all tiles. Confusion matrices (N, 5, 5) by tile say what they are worth:
    `average` of equal weights and the likeliest class, where nothing is tuned; `selected` with weights and `decided`
    with weights and rule, both tuned on the other folds alone; `without` (S, N, 5, 5) as `selected`, each without one
    member: where it had all the weight, the others count alike.
    """

    weights: np.ndarray
    rule: Rule
    average: np.ndarray
    selected: np.ndarray
    decided: np.ndarray
    without: np.ndarray


def tune(members: Sequence[Sequence[Stored]], tiles: np.ndarray, folds: np.ndarray, masks: np.ndarray) -> Tuned:
    """Tunes on all tiles, and for each fold on all the others, by which it is judged (nested cross-validation).

    Args:
        members: the stores of each member's runs; every tile is in one of them.
        tiles: (N,) int64, ascending.
        folds: (N,) int, 0 and up, of two kinds or more: parts in which tiles are left out of tuning.
        masks: (labelled tiles, H, W) of the whole data file.
    """
    parts = np.unique(folds)
    kept = [np.ones(len(parts), bool), *~np.eye(len(parts), dtype=bool)]  # all folds, then all but one
    place = np.searchsorted(parts, folds)
    chances, truth, fold = _sample(members, tiles, place, masks)
    selection = Selection(chances, truth, fold)
    weights = [selection.best(which) for which in kept]
    offsets = []
    for which, share in zip(kept, weights):
        here = which[fold]
        offsets.append(tune_offsets(np.tensordot(share.astype(np.float32), chances[:, :, here], 1), truth[here]))
    del chances, selection

    nothing = np.zeros((len(tiles), 5, 5), np.int64)
    average, selected, decided = nothing, nothing.copy(), nothing.copy()
    without = np.zeros((len(members), *nothing.shape), np.int64)
    by_blob = np.zeros((len(kept), len(tiles), len(LEAST), 5, 5), np.int64)
    for start, each in _blocks(members, tiles):
        part = slice(start, start + len(each[0]))
        true, own = masks[tiles[part]], place[part] + 1
        average[part] = _confusions(true, each, np.ones(len(each)))
        for number, share in enumerate(weights):
            by_blob[number, part] = confusions_by_blob(true, _mixed(each, share), offsets[number])
            mine = own == number  # tiles that this share was not tuned on
            if mine.any():
                left = [block[mine] for block in each]
                selected[part][mine] = _confusions(true[mine], left, share)
                for member in range(len(members) if len(members) > 1 else 0):
                    without[member, part][mine] = _confusions(true[mine], left, _lacking(share, member))
    least = [_best_least(found[which[place]].sum(axis=0)) for found, which in zip(by_blob, kept)]
    for number in range(1, len(kept)):
        mine = place + 1 == number
        decided[mine] = by_blob[number, mine, least[number]]
    rule = Rule(offsets=tuple(offsets[0].tolist()), least_blob=LEAST[least[0]])
    return Tuned(weights[0], rule, average, selected, decided, without)


def _best_least(confusions: np.ndarray) -> int:
    """The place in LEAST with the best mean IoU of (len(LEAST), 5, 5); the smallest of equals."""
    return int(np.argmax([mean_iou(confusion) for confusion in confusions]))


def _lacking(share: np.ndarray, member: int) -> np.ndarray:
    others = np.where(np.arange(len(share)) == member, 0, share)
    return others if others.any() else np.where(np.arange(len(share)) == member, 0, 1)


def _blocks(members: Sequence[Sequence[Stored]], tiles: np.ndarray) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Where a block of tiles starts, and each member's probabilities of it, (n, H, W, 5)."""
    walks = [mean(stores, CHUNK, tiles=tiles) for stores in members]
    for number, parts in enumerate(zip(*walks)):
        yield number * CHUNK, [block for _, block in parts]


def _mixed(each: Sequence[np.ndarray], share: np.ndarray) -> np.ndarray:
    """The members' weighted mean."""
    mixed = sum(np.float32(weight) * block for weight, block in zip(share / share.sum(), each) if weight)
    return np.asarray(mixed)


def _confusions(truth: np.ndarray, each: Sequence[np.ndarray], share: np.ndarray) -> np.ndarray:
    return tile_confusions(truth, decide(_mixed(each, share), ARGMAX))


def _sample(
    members: Sequence[Sequence[Stored]], tiles: np.ndarray, folds: np.ndarray, masks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some of the scored pixels: each member's chances (S, 4, P) of labels 1 to 4, the truth (P,), the fold (P,)."""
    chances, truth, fold = [], [], []
    for start, each in _blocks(members, tiles):
        part = slice(start, start + len(each[0]))
        true = masks[tiles[part], ::THIN, ::THIN]
        scored = true > 0
        chances.append(np.stack([block[:, ::THIN, ::THIN, 1:][scored].T for block in each]))
        truth.append(true[scored])
        fold.append(np.repeat(folds[part], scored.sum(axis=(1, 2))))
    return np.concatenate(chances, axis=2), np.concatenate(truth), np.concatenate(fold)
