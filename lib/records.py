"""What a run leaves on disk, record by record: metrics, history, environment, validation, and the note in its masks."""

from __future__ import annotations

import math
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from lib.config import Neighbours, Share
from lib.decision import Decision
from lib.metrics import scores
from lib.schema import Record, Sealed
from lib.task import CLASSES

Count = Annotated[int, Field(ge=0, le=2**53)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
Minutes = Annotated[float, Field(gt=0, le=60 * 24 * 366)]
Confusion = Annotated[
    list[Annotated[list[Count], Field(min_length=len(CLASSES), max_length=len(CLASSES))]],
    Field(min_length=len(CLASSES), max_length=len(CLASSES)),
]


class Data(Record):
    """Which data file: where it was, in words, and the hex SHA-256 of its labelled tiles."""

    source: str
    digest: str


class Scores(Record):
    """lib.metrics.scores: mean IoU, IoU by class name (None where undefined), and the matrix that both follow from."""

    mean_iou: Share
    iou: dict[str, Share | None]
    confusion: Confusion

    @model_validator(mode="after")
    def _agree(self) -> Self:
        _check_agreement(self.mean_iou, self.iou, self.confusion)
        return self


class Metrics(Sealed):
    """metrics.json, written when training has ended. Without a validation fold there are no scores.

    `files`: hex SHA-256 by name of what training left beside it; empty where an older version wrote it.
    `seconds` of training alone; `untrained_mean_iou`, `constant_mean_iou` of the fresh network, and of the training
    fold's commonest class everywhere. `teacher`: hex SHA-256 of the weights whose pseudo-labels were learnt from.
    """

    parameters: Positive
    epochs: Positive
    best_epoch: Positive
    seconds: Seconds
    untrained_mean_iou: Share | None = None
    constant_mean_iou: Share | None = None
    mean_iou: Share | None = None
    iou: dict[str, Share | None] | None = None
    confusion: Confusion | None = None
    files: dict[str, str] = Field(default_factory=dict)
    teacher: str | None = None
    config_hash: str | None = Field(None, exclude=True)  # older versions wrote it; nobody reads it

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.best_epoch > self.epochs:
            raise ValueError(f"best_epoch={self.best_epoch}: there are {self.epochs} epochs")
        if self.mean_iou is not None and self.iou is not None and self.confusion is not None:
            _check_agreement(self.mean_iou, self.iou, self.confusion)
        elif any(value is not None for value in (self.mean_iou, self.iou, self.confusion)):
            raise ValueError("mean_iou, iou, confusion: one of them is missing")
        return self


class Epoch(Record):
    """A line of history.csv. The loss of a training that came off the rails is infinite, or missing for NaN."""

    epoch: Positive
    loss: float | None = Field(None, allow_inf_nan=True)
    seconds: Seconds
    tiles_per_second: Seconds
    learning_rate: Seconds | None = None
    mean_iou: Share | None = None
    iou_soil: Share | None = None
    iou_bedrock: Share | None = None
    iou_sand: Share | None = None
    iou_big_rock: Share | None = None


class Environment(Record):
    """environment.json: what a result depends on besides config and data."""

    python: str
    system: str
    keras: str
    tensorflow: str | None = None
    jax: str | None = None
    torch: str | None = None
    numpy: str
    device: str
    commit: str | None = None


Views = tuple[str, ...] | dict[str, tuple[str, ...]]
"""The views that all runs were averaged over, or where they differ those of each run folder."""


class Validation(Sealed):
    """Scores of runs, each tile predicted only by those that never saw it: `plain`, and `tta` averaged over `views`;
    `informed`: the last of these with the labels of neighbours that other folds hold.

    `background`: whether class 0 might be predicted; None: as the runs' config says.
    """

    runs: tuple[str, ...] = ()
    tiles: Count
    plain: Scores | None = None
    tta: Scores | None = None
    informed: Scores | None = None
    views: Views = ()
    background: bool | None = None

    @property
    def best(self) -> Scores | None:
        """With neighbours and views where these were heeded, else without; None where no tile was left."""
        return self.informed or self.tta or self.plain


class Origin(Record):
    """The note in a masks file: which runs, by which views, of which data, and how well they did on validation.

    `neighbours`: what was heeded besides each tile itself; `decision`: weights and rule, where others than equal
    weights and the likeliest class.
    """

    runs: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    data: Data | None = None
    views: Views = ()
    validation: Validation | None = None
    neighbours: Neighbours = "off"
    decision: Decision | None = None


def _check_agreement(mean_iou: float, iou: dict[str, float | None], confusion: list[list[int]]) -> None:
    """Raises ValueError where scores are not those of their confusion matrix."""
    right = scores(np.array(confusion))
    if iou.keys() != right["iou"].keys():
        raise ValueError(f"iou: of {', '.join(iou)}; the classes are {', '.join(CLASSES)}")
    pairs = [("mean_iou", mean_iou, right["mean_iou"]), *((name, iou[name], right["iou"][name]) for name in CLASSES)]
    for name, found, wanted in pairs:
        if not _alike(found, wanted):
            raise ValueError(f"{name}={found}: its confusion matrix gives {wanted}")


def _alike(found: float | None, wanted: float | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return math.isclose(found, wanted, abs_tol=1e-9)
