"""Builds the page: results, settings, curves, confusion, gallery and audit in one file that needs no other."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from string import Template

import numpy as np

from lib import figures
from lib.audit import Audit
from lib.config import Config
from lib.data import Dataset
from lib.evaluation import Evaluation, System
from lib.experiments import EXPERIMENTS, make_config
from lib.metrics import Scores, scores
from lib.records import Environment
from lib.report import elements, gallery, verdicts
from lib.report.elements import cell, percent, row, table
from lib.report.verdicts import Verdicts
from lib.runs import ADVICE, ENVIRONMENT
from lib.task import CLASSES

LIMIT = 5_000_000
"""Bytes that a report stays below: the gallery shows as many tiles as fit."""

HERE = Path(__file__).parent
Evaluated = Sequence[tuple[System, Evaluation]]


def build(evaluated: Evaluated, dataset: Dataset, facts: Audit, judged: Verdicts, neighbours: str) -> str:
    """The HTML text of a report, below LIMIT bytes in UTF-8.

    Args:
        evaluated: each system with the evaluation of its validation tiles.
        dataset: the data of all of them.
        facts: its audit.
        judged: what the judge found of the systems.
        neighbours: the HTML of the section on what neighbouring tiles change.
    """
    chosen = [system for system, _ in evaluated]
    reliabilities = [(system.name, found.reliability) for system, found in evaluated if found.reliability is not None]
    parts = {
        "title": html.escape("Mars terrain: " + ", ".join(system.name for system in chosen)),
        "subtitle": html.escape(f"{dataset.source}, digest {dataset.digest[:12]}"),
        "style": (HERE / "style.css").read_text(),
        "script": (HERE / "viewer.js").read_text(),
        "results": _results(evaluated),
        "verdicts": verdicts.build(judged, reliabilities),
        "neighbours": neighbours,
        "settings": _settings(chosen),
        "curves": _curves(chosen),
        "confusion": _confusion(evaluated),
        "data": _data(facts, dataset),
        "footer": _footer(chosen),
    }
    page = Template((HERE / "page.html").read_text())
    used = len(page.substitute(parts, gallery=gallery.build(evaluated, dataset, 0)).encode())
    # The summary of the gallery may grow by some digits
    return page.substitute(parts, gallery=gallery.build(evaluated, dataset, LIMIT - used - 100))


def _results(evaluated: Evaluated) -> str:
    """One row for each system, and one more where it was scored with test-time views."""
    names, ious, facts, notes, plain_only = [], [], [], [], []
    for system, evaluation in evaluated:
        found = scores(evaluation.confusions.sum(axis=0)) if evaluation.scored.any() else None
        names.append(system.name)
        ious.append(_ious(found))
        facts.append(_effort(system, evaluation))
        if found and evaluation.with_views is not None:
            names.append(f"{system.name} --tta")
            ious.append(_ious(scores(evaluation.with_views.sum(axis=0))))
            facts.append([""] * len(facts[-1]))
        elif found:
            plain_only.append(html.escape(system.name))
    best = [max((iou for iou in column if iou is not None), default=None) for column in zip(*ious)]
    rows = []
    for name, numbers, effort in zip(names, ious, facts):
        tops = ["top" if len(names) > 1 and iou is not None and iou == top else "" for iou, top in zip(numbers, best)]
        rows.append(row(name, chain((cell(percent(n), kind=top) for n, top in zip(numbers, tops)), map(cell, effort))))
    notes.append(
        "Intersection over union in percent, over all validation tiles of a system at once, each predicted by the "
        "network that never saw it. Pixels whose true class is background do not count."
    )
    if len(names) > 1:
        notes.append("A star marks the best of a column.")
    if len({frozenset(evaluation.tiles.tolist()) for _, evaluation in evaluated}) > 1:
        notes.append("The systems were validated on different tiles, so their scores compare only loosely.")
    if plain_only:
        command = "<code>python infer.py FOLDER --tta</code>"
        notes.append(f"Not yet predicted with test-time views: {', '.join(plain_only)}. Each by {command}.")
    header = ["system", "mean IoU", *CLASSES[1:], "tiles", "folds", "parameters", "epochs", "an epoch", "training"]
    return table(header, rows) + "".join(f"<p class=note>{note}</p>" for note in notes)


def _ious(found: Scores | None) -> list[float | None]:
    return [found["mean_iou"], *(found["iou"][name] for name in CLASSES[1:])] if found else [None] * len(CLASSES)


def _effort(system: System, evaluation: Evaluation) -> list[str]:
    metrics = [run.metrics() for run in system.runs]
    seconds, epochs = sum(values.seconds for values in metrics), sum(values.epochs for values in metrics)
    return [
        f"{len(evaluation.tiles):,}",
        f"{len(system.runs)}",
        f"{metrics[0].parameters:,}",
        f"{epochs}",
        f"{seconds / max(1, epochs):.1f} s",
        elements.duration(seconds),
    ]


def _settings(systems: Sequence[System]) -> str:
    """The config fields in which systems differ; a single one is compared with its experiment as it is defined."""
    if len(systems) == 1:
        config = systems[0].config
        name = config.experiment
        known = name in EXPERIMENTS
        columns = {"as defined": make_config(name) if known else Config(experiment=name), "here": config}
        start = f"<p>{html.escape(name)}: {EXPERIMENTS[name].summary if known else 'not on the ladder'}.</p>"
    else:
        columns, start = {system.name: system.config for system in systems}, ""
    fields = [
        field for field in Config.model_fields if len({getattr(config, field) for config in columns.values()}) > 1
    ]
    rows = [
        row(field, (cell(elements.value(getattr(config, field))) for config in columns.values()))
        for field in fields
        if field != "experiment"
    ]
    return start + (table(["field", *columns], rows, "text") if rows else "<p>No difference.</p>")


def _curves(systems: Sequence[System]) -> str:
    histories = [(system.name, run.history()) for system in systems for run in system.runs]
    charts = "".join(
        f"<figure><figcaption>{title}</figcaption>{figures.curve_svg(column, histories)}</figure>"
        for column, title in figures.CURVES.items()
    )
    entries = []
    for number, system in enumerate(systems):
        colour, dashes = figures.line_style(number)
        line = f'<path d="M0 4H36" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dashes}"/>'
        entries.append(f'<li><svg width="36" height="8" aria-hidden="true">{line}</svg>{html.escape(system.name)}</li>')
    legend = f"<ul class=legend>{''.join(entries)}</ul><p class=note>One line for each fold.</p>"
    return f"<div class=charts>{charts}</div>{legend}"


def _confusion(evaluated: Evaluated) -> str:
    tables = []
    for system, evaluation in evaluated:
        matrix = evaluation.confusions.sum(axis=0)
        shares = figures.row_shares(matrix)
        rows = [
            row(name, (cell(f"{n:,}", f"{share:.1%}", share=share) for n, share in zip(matrix[label], shares[label])))
            for label, name in enumerate(CLASSES)
            if label
        ]
        tables.append(table(["true", *CLASSES], rows, "heat", system.name))
    note = "Rows: the true class; columns: the prediction. Pixels, and their share of the row; the diagonal is right."
    return f"<p class=note>{note}</p><div class=matrices>{''.join(tables)}</div>"


def _data(facts: Audit, dataset: Dataset) -> str:
    balance = facts.balance()
    rows = []
    for label, name in enumerate(CLASSES):
        colour = figures.PALETTE[label]
        cells = (
            (cell(f"{counts[label]:,}"), cell(f"{shares[label]:.2%}"), elements.bar(shares[label], colour))
            for _, counts, shares in balance
        )
        rows.append(row(name, chain(*cells)))
    header = ["class", *chain(*((what, "share", "") for what, _, _ in balance))]
    parts = [f"<p>{' '.join(facts.sentences())}</p>", table(header, rows)]
    for label, name in enumerate(CLASSES):
        if len(facts.samples[label]):
            parts.append(_strip(f"Samples of {name}", _pairs(facts.samples[label], dataset)))
    for group in facts.outliers[:2]:
        panels = [_mask(group[0], dataset), *(_image(tile, dataset) for tile in group[:7])]
        parts.append(_strip(f"{len(group)} outliers with one mask", panels))
    for group in facts.duplicates[:2]:
        parts.append(_strip(f"{len(group)} tiles of one image", _pairs(group[:4], dataset)))
    return "".join(parts)


def _strip(title: str, panels: Sequence[str]) -> str:
    return f"<h3>{title}</h3><div class=samples>{''.join(panels)}</div>"


def _pairs(tiles: np.ndarray, dataset: Dataset) -> list[str]:
    return [panel for tile in tiles for panel in (_image(tile, dataset), _mask(tile, dataset))]


def _image(tile: int, dataset: Dataset) -> str:
    return elements.panel(f"{tile}", f"Tile {tile}, grey image", elements.grey(dataset.images[tile]))


def _mask(tile: int, dataset: Dataset) -> str:
    mask = dataset.masks[tile]
    return elements.panel("mask", f"Mask: {elements.classes_in(mask)}", elements.indexed(mask, figures.PALETTE))


def _footer(systems: Sequence[System]) -> str:
    folders = html.escape(" ".join(str(system.folder) for system in systems))
    text = f"<p>Made by <code>python report.py {folders}</code>.</p>"
    path = systems[0].runs[0].folder / ENVIRONMENT
    if path.exists():
        facts = Environment.read(path, ADVICE)
        made = ", ".join(f"{name} {elements.value(fact)}" for name, fact in facts if fact)
        text += f"<p>First run: {html.escape(made)}.</p>"
    return text
