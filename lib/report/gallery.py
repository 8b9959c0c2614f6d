"""The gallery: tiles with truth, and each system's prediction, errors and uncertainty, as many as there is room for."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from string import Template

import numpy as np

from lib import figures
from lib.data import Dataset
from lib.evaluation import Evaluation, System
from lib.report import elements
from lib.task import BIG_ROCK, CLASSES

ENDS = 30  # tiles shown from each end of the order; those with big rock come on top
KINDS = np.array(list(figures.ERRORS.values()), np.uint8)


def build(evaluated: Sequence[tuple[System, Evaluation]], dataset: Dataset, room: int) -> str:
    """The gallery's HTML: the most telling tiles whose cards fit into `room` bytes, by rising mean IoU."""
    places = [{int(tile): place for place, tile in enumerate(found.tiles)} for _, found in evaluated]
    tables = [found.scores() for _, found in evaluated]
    order = ranking(places, tables)
    shown: dict[int, str] = {}
    for tile in telling(order, dataset):
        here = [
            (number, system, found, where[tile], table[where[tile]])
            for number, ((system, found), where, table) in enumerate(zip(evaluated, places, tables))
            if tile in where
        ]
        card = _card(tile, here, len(evaluated), dataset)
        room -= len(card.encode())
        if room < 0:
            break
        shown[tile] = card
    summary = (
        f"{len(shown)} of {len(order)} validation tiles, by rising mean IoU: those with the lowest, those with the "
        "highest, and those with big rock. A tile's IoU counts that tile alone; tiles with hardly a scored pixel have "
        "none. The tiles are brightened here."
    )
    ramp = ", ".join(elements.css(colour) for colour in figures.uncertainty_palette()[::3])
    legend = elements.swatches(chain(zip(CLASSES, figures.PALETTE), figures.ERRORS.items()))
    ramp = f'<span class="swatch ramp" style="background:linear-gradient(90deg, {ramp})"></span>'
    legend += f"<li>certain {ramp} uncertain</li>"
    return Template((Path(__file__).parent / "gallery.html").read_text()).substitute(
        summary=summary,
        legend=legend,
        systems="".join(elements.option(number, system.name) for number, (system, _) in enumerate(evaluated)),
        classes="".join(elements.option(label, CLASSES[label]) for label in range(1, len(CLASSES))),
        rock=BIG_ROCK,
        tiles="".join(shown[tile] for tile in order if tile in shown),
    )


def ranking(places: Sequence[dict[int, int]], tables: Sequence[np.ndarray]) -> list[int]:
    """Tile numbers by rising mean IoU, averaged over the systems that were validated on the tile.

    Args:
        places: by system: tile number -> row of its table.
        tables: by system: `Evaluation.scores`. Tiles without a score are left out.
    """
    found: dict[int, list[float]] = {}
    for where, table in zip(places, tables):
        for tile, place in where.items():
            if not np.isnan(table[place, 0]):
                found.setdefault(tile, []).append(table[place, 0])
    return sorted(found, key=lambda tile: (np.mean(found[tile]), tile))


def telling(order: Sequence[int], dataset: Dataset) -> list[int]:
    """The tiles to show, in turn a bad one, a good one and one with big rock, so any first part is a fair choice."""
    rocks = [tile for tile in order if (dataset.masks[tile] == BIG_ROCK).any()]
    turns = chain(*zip_longest(order[:ENDS], order[::-1][:ENDS], rocks))
    return list(dict.fromkeys(tile for tile in turns if tile is not None))


def _card(tile: int, here: list[tuple], systems: int, dataset: Dataset) -> str:
    """One tile; `here`: (number, system, its evaluation, the tile's place in it, its scores) of those that have it."""
    truth = dataset.masks[tile]
    scores: list = [None] * systems
    for number, _, _, _, table in here:
        scores[number] = [None if np.isnan(score) else round(float(score), 4) for score in table]
    labels = " ".join(map(str, np.unique(truth)))
    image = elements.grey(figures.brighten(dataset.images[tile]))
    parts = [
        f'<article class=tile data-classes="{labels}" data-scores="{json.dumps(scores)}">',
        f"<h3>Tile {tile}</h3><div class=panels>",
        elements.panel("tile", f"Tile {tile}, grey image", image, "tile"),
        elements.panel("truth", f"True mask of tile {tile}", elements.indexed(truth, figures.PALETTE), "truth"),
        f"<p class=note>True: {elements.classes_in(truth)}</p></div>",
    ]
    for number, system, found, place, table in here:
        answer, doubt = found.predictions[place], found.uncertainty[place]
        kinds = figures.error_kinds(truth, answer)
        wrong = (kinds == 1).sum() / (kinds < 2).sum()
        doubtful = elements.indexed(doubt >> 4, figures.uncertainty_palette())
        drawn = elements.indexed(answer, figures.PALETTE)
        parts += [
            f"<section data-system={number}>",
            f"<h4>{html.escape(system.name)}: mean IoU {elements.percent(table[0])} %</h4><div class=panels>",
            elements.panel("prediction", f"Prediction: {elements.classes_in(answer)}", drawn, "prediction"),
            elements.panel("error", f"Errors: {wrong:.0%} of the pixels", elements.indexed(kinds, KINDS), "error"),
            elements.panel("uncertainty", f"Uncertainty: {doubt.mean() / 255:.0%}", doubtful, "uncertainty"),
            "</div></section>",
        ]
    return "".join(parts) + "</article>"
