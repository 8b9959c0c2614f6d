"""Every picture that the project draws, in one palette: tiles, masks, errors, curves, confusion."""

from __future__ import annotations

import html
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lib.calibration import curve
from lib.data import Dataset
from lib.evaluation import Evaluation
from lib.files import replacing
from lib.task import CLASSES, HEIGHT, WIDTH

PALETTE = np.array([(30, 34, 38), (154, 107, 24), (70, 200, 242), (236, 224, 158), (224, 24, 126)], np.uint8)
"""RGB of labels 0..4. They stay apart for readers with any of the three colour blindnesses."""

ERRORS = {"right": (240, 242, 244), "wrong": (214, 69, 12), "not scored": (158, 164, 170)}
"""RGB of an error map's three kinds of pixel."""

LINES = ("#1b7fcf", "#d9541a", "#12936a", "#c65fae", "#a07b00", "#8a6fe8", "#7b7f88")
"""Colours of curves, each with a contrast above 3.5 on white and on a dark page."""

DASHES = ("", "6 2", "2 2", "8 2 2 2")
"""SVG dash patterns that tell curves apart where colours do not."""

BORDER = {"colors": "#ff8c1a", "linewidth": 0.7}
"""Lines between the tiles of a frame."""

CURVES = {"loss": "loss", "mean_iou": "mean IoU", "learning_rate": "learning rate"}
"""Columns of history.csv that are drawn, and what they are called."""


def line_style(number: int) -> tuple[str, str]:
    """Colour and SVG dash pattern of the curve with this number."""
    return LINES[number % len(LINES)], DASHES[number % len(DASHES)]


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """Labels 0..4 (..., H, W) -> RGB (..., H, W, 3) uint8."""
    return PALETTE[mask]


def brighten(tile: np.ndarray) -> np.ndarray:
    """A grey tile (H, W) uint8 stretched over the whole range for the eye: Mars is dim, and its contrasts are faint."""
    low, high = np.percentile(tile, (0.5, 99.5))
    return np.rint(255 * np.clip((tile - low) / max(high - low, 1), 0, 1)).astype(np.uint8)


def error_kinds(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Index into ERRORS per pixel, uint8: 0 right, 1 wrong, 2 not scored (true background)."""
    return np.where(truth == 0, 2, truth != prediction).astype(np.uint8)


def colour_errors(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Labels (..., H, W) of both -> RGB (..., H, W, 3) uint8 in the colours of ERRORS."""
    return np.array(list(ERRORS.values()), np.uint8)[error_kinds(truth, prediction)]


def uncertainty_palette() -> np.ndarray:
    """(16, 3) uint8 RGB for uncertainties of 0..255 in steps of sixteen, from certain to uncertain."""
    import matplotlib

    return np.rint(255 * matplotlib.colormaps["magma"](np.linspace(0, 1, 16))[:, :3]).astype(np.uint8)


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
    figure = new_figure((width, height))
    for column, title in enumerate(titles):
        left = gap + column * (across + gap)
        text_at(figure, left + across / 2, 0.08, title, ha="center", va="top", weight="bold")
        for number, row in enumerate(rows):
            panel(figure, left, top + (number + 1) * step - down, across, row[column])
    for number, title in enumerate(row_titles):
        text_at(figure, gap, top + (number + 1) * step - down - 0.06, title, fontsize=8)
    legend(figure, errors)
    save(figure, path)


def frames(
    path: str | os.PathLike | io.BytesIO,
    rows: Sequence[tuple[Sequence[np.ndarray], str]],
    titles: Sequence[str],
    errors: bool = False,
) -> None:
    """Writes a PNG of camera frames with the borders of their tiles: a row of panels for each frame.

    Args:
        path: the PNG to write, or a stream.
        rows: a frame's pictures of one shape, grey (H, W) or RGB (H, W, 3) uint8, whole tiles; and the frame's title.
        titles: one per column.
        errors: whether the legend explains the colours of `colour_errors` too.
    """
    across, gap, title = 2.56, 0.1, 0.28  # inches: at 100 dpi a frame of two tiles pixel by pixel
    heights = [across * panels[0].shape[0] / panels[0].shape[1] for panels, _ in rows]
    figure = new_figure((gap + len(titles) * (across + gap), 0.25 + sum(heights) + len(rows) * title + 0.6))
    for column, text in enumerate(titles):
        text_at(figure, gap + column * (across + gap) + across / 2, 0.06, text, ha="center", va="top", weight="bold")
    top = 0.25
    for (panels, text), height in zip(rows, heights):
        top += title
        text_at(figure, gap, top - 0.06, text, fontsize=8)
        for column, pixels in enumerate(panels):
            axes = panel(figure, gap + column * (across + gap), top, across, pixels)
            axes.hlines(np.arange(HEIGHT, pixels.shape[0], HEIGHT) - 0.5, -0.5, pixels.shape[1] - 0.5, **BORDER)
            axes.vlines(np.arange(WIDTH, pixels.shape[1], WIDTH) - 0.5, -0.5, pixels.shape[0] - 0.5, **BORDER)
        top += height
    legend(figure, errors)
    save(figure, path)


def beside(path: str | os.PathLike, grey: np.ndarray, colours: np.ndarray, title: str) -> None:
    """Writes a PNG of a frame and its mask side by side, pixel by pixel where they have more than 256.

    Args:
        path: the PNG to write.
        grey: (H, W) uint8.
        colours: of the mask, (H, W, 3) uint8.
        title: the frame's.
    """
    height, width = grey.shape
    scale = max(1 / 100, 2.56 / max(height, width))  # inches
    across, down, gap = width * scale, height * scale, 0.1
    figure = new_figure((max(2 * across + 3 * gap, 3), down + 0.9))
    text_at(figure, gap, 0.08, title, va="top", fontsize=8)
    for number, pixels in enumerate((grey, colours)):
        panel(figure, gap + number * (across + gap), 0.3, across, pixels)
    legend(figure)
    save(figure, path)


def mistakes(
    path: str | os.PathLike,
    dataset: Dataset,
    evaluation: Evaluation,
    positions: Sequence[int],
) -> None:
    """Writes a PNG of validation tiles, a row each: tile, truth, prediction, error, uncertainty.

    Args:
        path: the PNG to write.
        dataset: the data that was predicted.
        evaluation: its predictions.
        positions: which of them to show.
    """
    palette, scores = uncertainty_palette(), evaluation.scores()[:, 0]
    rows, titles = [], []
    for position in positions:
        tile, answer = evaluation.tiles[position], evaluation.predictions[position]
        truth, doubt = dataset.masks[tile], palette[evaluation.uncertainty[position] >> 4]
        errors = colour_errors(truth, answer)
        rows.append([brighten(dataset.images[tile]), colour_mask(truth), colour_mask(answer), errors, doubt])
        titles.append(f"tile {tile}, mean IoU {100 * scores[position]:.1f}")
    tile_grid(path, rows, ["tile", "truth", "prediction", "error", "uncertainty (bright: high)"], titles, errors=True)


def curves(path: str | os.PathLike, histories: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Writes a PNG of loss, mean IoU and learning rate by epoch.

    Args:
        path: the PNG to write.
        histories: rows of history.csv by the name that the legend prints.
    """
    figure = new_figure((12, 3.8))
    for axes, column in zip(figure.subplots(1, len(CURVES)), CURVES):
        _draw_curve(axes, column, list(histories.items()))
        axes.set_title(CURVES[column])
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncol=min(6, max(1, len(names))), frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    save(figure, path)


def curve_svg(column: str, histories: Sequence[tuple[str, Sequence[Mapping[str, float]]]]) -> str:
    """One curve picture as an `<svg>` element for a page: text stays text, black becomes the page's text colour.

    Args:
        column: a key of CURVES.
        histories: (name, rows of history.csv); lines of one name share a style, the n-th name that of `line_style(n)`.
    """
    return _as_svg((4.4, 3.0), lambda axes: _draw_curve(axes, column, histories), f"{CURVES[column]} by epoch")


def reliability_svg(name: str, counts: np.ndarray) -> str:
    """A reliability curve for each of labels 1 to 4 as an `<svg>` element; the n-th has the style of `line_style(n)`.

    Args:
        name: of the system, for the text in place of the picture.
        counts: (4, BINS, 3) of lib.calibration.
    """

    def draw(axes) -> None:
        axes.plot((0, 1), (0, 1), color="#7b7f88", lw=0.8)
        for label, one in enumerate(counts):
            colour, style = _line(label)
            axes.plot(*curve(one), color=colour, ls=style, lw=1.6, marker="o", ms=3)
        axes.set_xlabel("probability")
        axes.set_ylabel("share that has the class")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)

    return _as_svg((4.0, 3.6), draw, f"reliability of {name}")


def _as_svg(size: tuple[float, float], draw: Callable[[Any], None], title: str) -> str:
    """What `draw` draws, as an `<svg>` element; `title` is read out in its place."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure = new_figure(size)
        draw(figure.subplots())
        figure.tight_layout()
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :].replace("#000000", "currentColor")
    # Its style sheet and fonts would reach beyond the picture
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|font-family: [^;]*; ", "", svg, flags=re.DOTALL)
    # Ids that nothing refers to would repeat from picture to picture
    used = set(re.findall(r"[\"(]#([^\")]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    opening, rest = svg.split(">", 1)
    box = next(re.finditer(r'viewBox="[^"]*"', opening))[0]
    return f'<svg {box} role="img" aria-label="{html.escape(title)}">{rest}'


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Each row of a confusion matrix divided by its sum, float64; rows without pixels stay zero."""
    sums = matrix.sum(axis=1, keepdims=True)
    return np.divide(matrix, sums, out=np.zeros(matrix.shape), where=sums > 0)


def confusion(path: str | os.PathLike, matrix: np.ndarray) -> None:
    """Writes a PNG of a confusion matrix: counts, shaded by their share of the row.

    Args:
        path: the PNG to write.
        matrix: (5, 5) pixels by (true label, predicted label); row 0 (never scored) is left out.
    """
    matrix = np.asarray(matrix)
    counts, shares = matrix[1:], row_shares(matrix)[1:]
    figure = new_figure((6.4, 4.4))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        text = f"{counts[row, column]:,}\n{share:.1%}"
        axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.5 else "black", fontsize=9)
    axes.set_xticks(range(len(CLASSES)), CLASSES)
    axes.set_yticks(range(len(CLASSES) - 1), CLASSES[1:])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title("scored pixels, and their share of the true class", fontsize=10)
    figure.tight_layout()
    save(figure, path)


def _line(number: int) -> tuple[str, Any]:
    """`line_style` in Matplotlib's words."""
    colour, dashes = line_style(number)
    return colour, (0, tuple(map(int, dashes.split()))) if dashes else "solid"


def _draw_curve(axes, column: str, histories: Sequence[tuple[str, Sequence[Mapping[str, float]]]]) -> None:
    names = list(dict.fromkeys(name for name, _ in histories))
    drawn = set()
    for name, rows in histories:
        points = [(row["epoch"], row[column]) for row in rows if column in row]
        colour, style = _line(names.index(name))
        # A single epoch is a dot, not an invisible line
        marker = "o" if len(points) == 1 else None
        label = None if name in drawn else name
        axes.plot(*zip(*points) if points else ((), ()), color=colour, ls=style, lw=1.6, marker=marker, label=label)
        drawn.add(name)
    if column == "learning_rate":
        # Whole decades, so that a rate that never fell has a labelled axis too
        rates = [row[column] for _, rows in histories for row in rows if row.get(column, 0) > 0]
        # rounded, since 0.001 of float32 lies a little above
        low, high = np.log10([min(rates), max(rates)]).round(3) if rates else (-4.0, -3.0)
        # Limits first: Matplotlib warns of a logarithmic axis without a rate above zero, as of one epoch by the cosine
        axes.set_ylim(10 ** np.floor(low) * 0.7, 10 ** np.ceil(high) * 1.4)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color="#808080", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def new_figure(size: tuple[float, float]):
    """A matplotlib figure in inches that no global state knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=100)
    FigureCanvasAgg(figure)
    return figure


def panel(figure, left: float, top: float, across: float, pixels: np.ndarray):
    """The axes that show grey or RGB pixels; all lengths in inches from the figure's upper left corner."""
    width, height = figure.get_size_inches()
    down = across * pixels.shape[0] / pixels.shape[1]
    axes = figure.add_axes((left / width, 1 - (top + down) / height, across / width, down / height))
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    return axes


def text_at(figure, left: float, top: float, text: str, **style) -> None:
    """Prints a text; lengths in inches from the figure's upper left corner."""
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - top / height, text, **style)


def legend(figure, errors: bool = False) -> None:
    """Prints the colours of the classes, and of an error map's pixels, along the lower edge."""
    from matplotlib.patches import Patch

    entries = [*zip(CLASSES, PALETTE)] + ([*ERRORS.items()] if errors else [])
    patches = [Patch(facecolor=tuple(np.array(colour) / 255), edgecolor="#555", label=name) for name, colour in entries]
    # As many columns as fit, an inch each: narrow grids wrap
    columns = max(2, min(len(patches), int(figure.get_figwidth() / 0.95)))
    figure.legend(handles=patches, loc="lower center", ncol=columns, frameon=False, fontsize=8, handlelength=1.2)


def save(figure, path: str | os.PathLike | io.BytesIO) -> None:
    """Writes a figure as a PNG."""
    if isinstance(path, io.BytesIO):
        return figure.savefig(path, format="png")
    with replacing(path, "wb") as stream:
        figure.savefig(stream, format="png")
