"""Every picture that the project draws, in one palette: tiles, masks, error maps, curves, confusion, the data's audit."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from lib.files import replacing
from lib.metrics import CLASSES

PALETTE = np.array([(30, 34, 38), (154, 107, 24), (70, 200, 242), (236, 224, 158), (224, 24, 126)], np.uint8)
"""RGB of labels 0..4. They stay apart for readers with any of the three colour blindnesses, and in grey."""

ERRORS = {"right": (240, 242, 244), "wrong": (214, 69, 12), "not scored": (158, 164, 170)}
"""RGB of an error map's three kinds of pixel."""


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """Labels 0..4 (..., H, W) -> RGB (..., H, W, 3) uint8."""
    return PALETTE[mask]


def error_kinds(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Index into ERRORS per pixel, uint8: 0 right, 1 wrong, 2 not scored (true background)."""
    return np.where(truth == 0, 2, truth != prediction).astype(np.uint8)


def colour_errors(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Labels (..., H, W) of both -> RGB (..., H, W, 3) uint8 in the colours of ERRORS."""
    return np.array(list(ERRORS.values()), np.uint8)[error_kinds(truth, prediction)]


def tile_grid(
    path: str | os.PathLike,
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    row_titles: Sequence[str] = (),
    errors: bool = False,
) -> None:
    """Writes a PNG: rows of panels under column titles, with a printed legend of the classes.

    Args:
        path: the PNG to write.
        rows: panels of one shape, grey (H, W) or RGB (H, W, 3) uint8; pass masks through `colour_mask`.
        titles: one per column.
        row_titles: one per row, printed above its first panel; none if empty.
        errors: whether the legend explains the colours of `colour_errors` too.
    """
    tall, wide = rows[0][0].shape[:2]
    # In inches: at 100 dpi a panel shows each tile pixel as two of the picture's
    across, gap, top, bottom = 2.56, 0.08, 0.24 if row_titles else 0.32, 0.5
    down = across * tall / wide
    step = down + (0.28 if row_titles else gap)
    width, height = gap + len(titles) * (across + gap), top + len(rows) * step + bottom
    figure = _figure((width, height))
    for column, title in enumerate(titles):
        left = gap + column * (across + gap)
        figure.text((left + across / 2) / width, 1 - 0.08 / height, title, ha="center", va="top", weight="bold")
        for number, row in enumerate(rows):
            low = height - top - (number + 1) * step
            axes = figure.add_axes((left / width, low / height, across / width, down / height))
            axes.imshow(row[column], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_axis_off()
    for number, title in enumerate(row_titles):
        figure.text(gap / width, (height - top - (number + 1) * step + down + 0.06) / height, title, fontsize=8)
    _legend(figure, errors)
    _save(figure, path)


def _figure(size: tuple[float, float]):
    """A matplotlib figure in inches that no global state knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=100)
    FigureCanvasAgg(figure)
    return figure


def _legend(figure, errors: bool = False) -> None:
    from matplotlib.patches import Patch

    entries = [*zip(CLASSES, PALETTE)] + ([*ERRORS.items()] if errors else [])
    patches = [Patch(facecolor=np.array(colour) / 255, edgecolor="#555", label=name) for name, colour in entries]
    # As many columns as fit, an inch each: narrow grids wrap
    columns = max(2, min(len(patches), int(figure.get_figwidth() / 0.95)))
    figure.legend(handles=patches, loc="lower center", ncol=columns, frameon=False, fontsize=8, handlelength=1.2)


def _save(figure, path: str | os.PathLike) -> None:
    with replacing(path, "wb") as stream:
        figure.savefig(stream, format="png")
