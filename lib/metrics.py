"""One confusion matrix, and the competition's score from it: used by training, inference and reports alike."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from lib.task import CLASSES


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Pixels by (true label, predicted label), without pixels whose true label is background.

    Args:
        truth: integer labels 0..4, any shape.
        prediction: integer labels 0..4, the same shape.

    Returns:
        (5, 5) int64; row 0 is zero, since the score leaves true background out.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
    size = len(CLASSES)
    pairs = truth.astype(np.uint8) * np.uint8(size) + prediction.astype(np.uint8)
    confusion = np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size).astype(np.int64)
    confusion[0] = 0
    return confusion


def tile_confusions(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """`confusion_matrix` of each of N tiles, from labels (N, ...) of both: (N, 5, 5) int64."""
    size = len(CLASSES)
    pairs = (truth.astype(np.int64) * size + prediction).reshape(len(truth), -1)
    pairs += np.arange(len(truth))[:, None] * size * size
    confusions = np.bincount(pairs.ravel(), minlength=len(truth) * size * size).reshape(len(truth), size, size)
    confusions[:, 0] = 0
    return confusions


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union per class, (..., 5, 5) -> (..., 5) float64; NaN where neither true nor predicted."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    union = confusion.sum(axis=-2) + confusion.sum(axis=-1) - hits
    return np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)


def mean_ious(confusions: np.ndarray) -> np.ndarray:
    """The competition's score, (..., 5, 5) -> (...) float64: mean of `class_iou` over the classes whose union is not
    empty; 0 if all are.

    One scored pixel predicted as background brings class 0 into the mean with IoU 0, as in the organisers' metric.
    """
    ious = class_iou(confusions)
    known = ~np.isnan(ious)
    return np.where(known, ious, 0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)


def mean_iou(confusion: np.ndarray) -> float:
    """`mean_ious` of one matrix (5, 5)."""
    return float(mean_ious(confusion))


def percent(score: float | None) -> str:
    """A score 0..1 as tables show it: in percent with two digits; "-" where it is undefined."""
    return "-" if score is None else f"{100 * score:.2f}"


class Scores(TypedDict):
    """Scores 0..1 ready for JSON: the mean, by class name (None where undefined), and the confusion matrix."""

    mean_iou: float
    iou: dict[str, float | None]
    confusion: list[list[int]]


def scores(confusion: np.ndarray) -> Scores:
    """The scores of a confusion matrix (5, 5)."""
    by_class = {name: None if np.isnan(v) else float(v) for name, v in zip(CLASSES, class_iou(confusion))}
    return {"mean_iou": mean_iou(confusion), "iou": by_class, "confusion": confusion.tolist()}
