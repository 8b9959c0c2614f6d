"""Weights and decision rule of an ensemble, tuned on all validation tiles, and judged where they were not tuned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lib.decision import ARGMAX, LEAST, Rule, confusions_by_blob, decide, tune_offsets
from lib.ensembles import Selection
from lib.metrics import confusion_matrix, mean_iou, tile_confusions
from lib.neighbours import EXPONENT, Clues, informed
from lib.probabilities import Stored, mean

THIN = 2  # weights and offsets are sought on every second row and column, 62 MB a member: neighbours are alike
CHUNK = 64  # tiles of all members that are held at a time
EXPONENTS = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0, 1.25)  # that are tried where neighbours are heeded


@dataclass(frozen=True)
class Tuned:
    """What tuning found, and what it is worth on N tiles.

    `weights` (S,) and `rule` were tuned on all tiles. Confusion matrices (N, 5, 5) by tile say what they are worth:
    `average` of equal weights and the likeliest class, where nothing is tuned; `selected` with weights and `decided`
    with weights and rule, both tuned on the other folds alone; `without` (S, N, 5, 5) as `selected`, each without one
    member: where it had all the weight, the others count alike. Where neighbours are heeded, they are in all of these:
    with EXPONENT in the first two.
    """

    weights: np.ndarray
    rule: Rule
    average: np.ndarray
    selected: np.ndarray
    decided: np.ndarray
    without: np.ndarray


def tune(
    members: Sequence[Sequence[Stored]],
    tiles: np.ndarray,
    folds: np.ndarray,
    masks: np.ndarray,
    clues: Clues | None = None,
) -> Tuned:
    """Tunes on all tiles, and for each fold on all the others, by which it is judged (nested cross-validation).

    Args:
        members: the stores of each member's runs; every tile is in one of them.
        tiles: (N,) int64, ascending.
        folds: (N,) int, 0 and up, of two kinds or more: parts in which tiles are left out of tuning.
        masks: (labelled tiles, H, W) of the whole data file.
        clues: of all tiles, where their neighbours are heeded.
    """
    parts = np.unique(folds)
    kept = [np.ones(len(parts), bool), *~np.eye(len(parts), dtype=bool)]  # all folds, then all but one
    place = np.searchsorted(parts, folds)
    chances, hints, truth, fold = _sample(members, tiles, place, masks, clues)
    # What neighbours say is a common factor of all members
    selection = Selection(chances if hints is None else chances * np.exp(EXPONENT * hints), truth, fold)
    weights = [selection.best(which) for which in kept]
    del selection
    exponents, offsets = [], []
    for which, share in zip(kept, weights):
        here = which[fold]
        mixed = np.tensordot(share.astype(np.float32), chances[:, :, here], 1)
        exponents.append(0.0)
        if hints is not None:
            exponents[-1] = _best_exponent(mixed, hints[:, here], truth[here])
            mixed *= np.exp(np.float32(exponents[-1]) * hints[:, here])
        offsets.append(tune_offsets(mixed, truth[here]))
    del chances, hints

    nothing = np.zeros((len(tiles), 5, 5), np.int64)
    average, selected, decided = nothing, nothing.copy(), nothing.copy()
    without = np.zeros((len(members), *nothing.shape), np.int64)
    by_blob = np.zeros((len(kept), len(tiles), len(LEAST), 5, 5), np.int64)
    for start, each in _blocks(members, tiles):
        part = slice(start, start + len(each[0]))
        true, own = masks[tiles[part]], place[part] + 1
        hint = None if clues is None else clues.log_likelihood(tiles[part])
        average[part] = _confusions(true, each, np.ones(len(each)), hint)
        for number, share in enumerate(weights):
            by_blob[number, part] = confusions_by_blob(
                true, _mixed(each, share, hint, exponents[number]), offsets[number]
            )
            mine = own == number  # tiles that this share was not tuned on
            if mine.any():
                left, left_hint = [block[mine] for block in each], None if hint is None else hint[mine]
                selected[part][mine] = _confusions(true[mine], left, share, left_hint)
                for member in range(len(members) if len(members) > 1 else 0):
                    lacking = _lacking(share, member)
                    without[member, part][mine] = _confusions(true[mine], left, lacking, left_hint)
    least = [_best_of(found[which[place]].sum(axis=0)) for found, which in zip(by_blob, kept)]
    for number in range(1, len(kept)):
        mine = place + 1 == number
        decided[mine] = by_blob[number, mine, least[number]]
    rule = Rule(offsets=tuple(offsets[0].tolist()), least_blob=LEAST[least[0]], exponent=exponents[0])
    return Tuned(weights[0], rule, average, selected, decided, without)


def _best_exponent(chances: np.ndarray, hints: np.ndarray, truth: np.ndarray) -> float:
    """That of EXPONENTS with the best mean IoU on P pixels: `chances` and log-likelihoods `hints` (4, P)."""
    found = [confusion_matrix(truth, 1 + (chances * np.exp(np.float32(e) * hints)).argmax(axis=0)) for e in EXPONENTS]
    return EXPONENTS[_best_of(found)]


def _best_of(confusions: Iterable[np.ndarray]) -> int:
    """The place of the best mean IoU; the first of equals."""
    return int(np.argmax([mean_iou(confusion) for confusion in confusions]))


def _lacking(share: np.ndarray, member: int) -> np.ndarray:
    others = np.where(np.arange(len(share)) == member, 0, share)
    return others if others.any() else np.where(np.arange(len(share)) == member, 0, 1)


def _blocks(members: Sequence[Sequence[Stored]], tiles: np.ndarray) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Where a block of tiles starts, and each member's probabilities of it, (n, H, W, 5)."""
    walks = [mean(stores, CHUNK, tiles=tiles) for stores in members]
    for number, parts in enumerate(zip(*walks)):
        yield number * CHUNK, [block for _, block in parts]


def _mixed(each: Sequence[np.ndarray], share: np.ndarray, hint: np.ndarray | None, exponent: float) -> np.ndarray:
    """The members' weighted mean, with what neighbours say."""
    mixed = sum(np.float32(weight) * block for weight, block in zip(share / share.sum(), each) if weight)
    return np.asarray(mixed) if hint is None else informed(np.asarray(mixed), hint, exponent)


def _confusions(
    truth: np.ndarray, each: Sequence[np.ndarray], share: np.ndarray, hint: np.ndarray | None
) -> np.ndarray:
    return tile_confusions(truth, decide(_mixed(each, share, hint, EXPONENT), ARGMAX))


def _sample(
    members: Sequence[Sequence[Stored]], tiles: np.ndarray, folds: np.ndarray, masks: np.ndarray, clues: Clues | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]:
    """Some of the scored pixels: each member's chances (S, 4, P) of labels 1 to 4, the neighbours' log-likelihoods
    (4, P), the truth (P,), the fold (P,)."""
    chances, hints, truth, fold = [], [], [], []
    for start, each in _blocks(members, tiles):
        part = slice(start, start + len(each[0]))
        true = masks[tiles[part], ::THIN, ::THIN]
        scored = true > 0
        chances.append(np.stack([block[:, ::THIN, ::THIN, 1:][scored].T for block in each]))
        if clues is not None:
            hints.append(clues.log_likelihood(tiles[part])[:, ::THIN, ::THIN][scored].T)
        truth.append(true[scored])
        fold.append(np.repeat(folds[part], scored.sum(axis=(1, 2))))
    together = np.concatenate(hints, axis=1) if hints else None
    return np.concatenate(chances, axis=2), together, np.concatenate(truth), np.concatenate(fold)
