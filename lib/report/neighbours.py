"""What neighbours change, to look at: frames with their tiles, labels, and predictions with and without neighbours."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence

import numpy as np

from lib import figures
from lib.console import UserError
from lib.data import Dataset
from lib.frames import Mosaic, paste
from lib.neighbours import Clues
from lib.predict import labels
from lib.probabilities import Stored, mean
from lib.task import HEIGHT, WIDTH

SHOWN = 4  # frames: those with most validation tiles


def build(mosaic: Mosaic, dataset: Dataset, stores: Sequence[Stored], clues: Clues) -> str:
    """The section's HTML: what was found, and a picture of it where there is any frame.

    Args:
        mosaic: of the data file.
        dataset: the data file with its test tiles.
        stores: of one system's runs, validation tiles.
        clues: of all validation tiles.
    """
    inside, frames = (mosaic.places[:, 0] >= 0).sum(), mosaic.places[:, 0].max(initial=-1) + 1
    if not inside:
        return "<p>No two tiles were found to be neighbours.</p>"
    rows, columns = mosaic.frame
    size = f"at most {rows} x {columns} tiles each" if rows else "of no common size"
    facts = (
        f"{inside:,} of {len(mosaic.places):,} tiles lie in {frames:,} frames, {size}; a label of "
        f"another fold lies in the frame of {clues.reach:.0%} of the validation pixels. A validation tile sees what a "
        "test tile would: no label of its own fold. That neighbours help is due to how this competition was cut: on "
        "ground without labelled neighbours, each tile is predicted by itself."
    )
    stream = io.BytesIO()
    draw(stream, mosaic, dataset, stores, clues)
    source = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    alt = html.escape("Frames put together from their tiles: labels, predictions without and with neighbours, errors")
    return f'<p class=note>{html.escape(facts)}</p><figure><img class=wide src="{source}" alt="{alt}"></figure>'


def draw(
    target: str | os.PathLike | io.BytesIO, mosaic: Mosaic, dataset: Dataset, stores: Sequence[Stored], clues: Clues
) -> None:
    """Writes a PNG of the frames with most validation tiles: tiles, labels, predictions without and with neighbours.

    Arguments as `build`. Raises UserError where no frame has a validation tile.
    """
    validated = np.unique(np.concatenate([store.tiles for store in stores]))
    frames = [(np.intersect1d(frame, validated, assume_unique=True), frame) for frame in mosaic.frames()]
    frames = sorted((pair for pair in frames if len(pair[0])), key=lambda pair: (-len(pair[0]), pair[1][0]))[:SHOWN]
    if not frames:
        raise UserError("--picture: no validation tile has a neighbour; name a run with a validation fold")
    plain = np.zeros((len(mosaic.places), HEIGHT, WIDTH), np.uint8)
    heeding, masks = plain.copy(), plain.copy()
    masks[: len(dataset.masks)] = dataset.masks
    for tiles, probabilities in mean(stores, tiles=np.sort(np.concatenate([known for known, _ in frames]))):
        plain[tiles] = labels(probabilities)
        heeding[tiles] = labels(clues.heeded(tiles, probabilities))
    pixels = np.concatenate([dataset.images, dataset.test])
    rows = []
    for known, frame in frames:
        grey, truth, without, with_ = (
            paste(part[frame], mosaic.places[frame, 1:]) for part in (pixels, masks, plain, heeding)
        )
        right = [100 * (answer == truth)[(truth > 0) & (answer > 0)].mean() for answer in (without, with_)]
        title = (
            f"frame {mosaic.places[frame[0], 0]}, {len(known)} of {len(frame)} tiles validated: "
            f"{right[0]:.1f} % of the labelled pixels right without, {right[1]:.1f} % with"
        )
        errors = figures.colour_errors(np.where(with_ > 0, truth, 0), with_)
        rows.append(([figures.brighten(grey), *map(figures.colour_mask, (truth, without, with_)), errors], title))
    titles = ["tiles", "labels", "without neighbours", "with neighbours", "errors with"]
    figures.frames(target, rows, titles, errors=True)
