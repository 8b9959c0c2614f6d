"""What the judge says, for the page: scores and differences with intervals drawn, decisions' effects, reliability."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib import figures
from lib.bootstrap import DRAWS, LEVEL, PUBLIC, SCORED, Interval
from lib.calibration import calibration_error
from lib.decision import Decision
from lib.judge import Pair, Standing
from lib.report.elements import cell, percent, row, spans, table
from lib.task import BIG_ROCK, CLASSES, TEST_TILES


@dataclass(frozen=True)
class Verdicts:
    """What lib.judge found: `standings` and `pairs` as `compare` gives them, `drawn` the words of `ground`; and the
    `decisions` that were tuned for the systems."""

    standings: Sequence[Standing]
    pairs: Sequence[Pair]
    drawn: str
    decisions: Sequence[Decision]


def build(verdicts: Verdicts, reliabilities: Sequence[tuple[str, np.ndarray]]) -> str:
    """The section's HTML; `reliabilities`: the name of a system, and what `lib.calibration.reliability` counted."""
    if not verdicts.standings:
        return "<p>No system has a validation tile.</p>"
    drawn = html.escape(verdicts.drawn)
    note = (
        f"<p class=note>Without test-time views. Intervals: {LEVEL:.0%} of {DRAWS:,} draws of {drawn}. Public minus "
        f"private: how far the two parts of a leaderboard of {TEST_TILES:,} such tiles, {PUBLIC:.0%} of them public, "
        "lie apart by the choice of tiles alone.</p>"
    )
    tables = [_systems(verdicts.standings), _pairs(verdicts.standings, verdicts.pairs)]
    return "".join([*tables, note, *map(_decision, verdicts.decisions), _reliability(reliabilities)])


def _systems(standings: Sequence[Standing]) -> str:
    scores = [standing.intervals[0] for standing in standings]
    rows = []
    for standing, drawing in zip(standings, spans(scores, zero=False)):
        pooled = standing.pooled
        facts = [pooled.folds_judged, f"{pooled.system.config.seed}", pooled.system.config.folds_by]
        numbers = [_cell(interval) for interval in standing.intervals]
        gap = _cell(standing.gap, signed=True)
        rows.append(row(pooled.system.name, [numbers[0], drawing, *numbers[1:], gap, *map(cell, facts)]))
    header = ["system", "mean IoU", "", *CLASSES[1:], "public minus private", "folds", "seed", "folds by"]
    return table(header, rows, caption="Scores and their intervals")


def _pairs(standings: Sequence[Standing], pairs: Sequence[Pair]) -> str:
    if not pairs:
        return ""
    names = [standing.pooled.system.name for standing in standings]
    rows = []
    for pair, drawing in zip(pairs, spans([pair.differences[0] for pair in pairs], zero=True)):
        numbers = [_cell(interval, signed=True) for interval in pair.differences]
        facts = [f"{pair.tiles:,}", f"{pair.agreement:.0%}"]
        verdict = cell(pair.differences[0].verdict)
        name = f"{names[pair.first]} minus {names[pair.second]}"
        rows.append(row(name, [numbers[0], drawing, verdict, *numbers[1:], *map(cell, facts)]))
    header = ["pair", "mean IoU", "", "the first is", *CLASSES[1:], "tiles", "public ranks as private"]
    return table(header, rows, caption="Differences, drawn together")


def _decision(decision: Decision) -> str:
    gains = [decision.gains[name] for name in SCORED]
    rows = []
    for name, gain, drawing, offset in zip(
        SCORED, gains, spans([gain.interval() for gain in gains], zero=True), ("", *decision.rule.offsets)
    ):
        cells = [cell(percent(gain.argmax)), cell(percent(gain.tuned)), _cell(gain.interval(), signed=True), drawing]
        rows.append(row(name, [*cells, cell(f"{offset:+.1f}" if isinstance(offset, float) else "")]))
    names = " and ".join(
        f"{member.name} (weight {member.weight:.2f})" if len(decision.members) > 1 else member.name
        for member in decision.members
    )
    note = (
        f"Offsets are added to log-probabilities before the largest is chosen; {CLASSES[BIG_ROCK]} of fewer than "
        f"{decision.rule.least_blob} connected pixels goes to the next class. Tuned on all folds but one and judged on "
        f"that one, {decision.folds} times. Views: {', '.join(decision.members[0].views)}."
    )
    header = ["class", "nothing tuned", "tuned", "gain", "", "offset"]
    return table(header, rows, caption=f"Decision for {names}") + f"<p class=note>{html.escape(note)}</p>"


def _reliability(reliabilities: Sequence[tuple[str, np.ndarray]]) -> str:
    charts = []
    for name, counts in reliabilities:
        errors = ", ".join(
            f"{label} {100 * error:.1f}"
            for label, error in zip(CLASSES[1:], map(calibration_error, counts))
            if not np.isnan(error)
        )
        caption = f"<figcaption>{html.escape(name)}</figcaption>"
        charts.append(
            f"<figure>{caption}{figures.reliability_svg(name, counts)}"
            f"<p class=note>Mean distance from the diagonal in points: {errors}.</p></figure>"
        )
    entries = []
    for label, name in enumerate(CLASSES[1:]):
        colour, dashes = figures.line_style(label)
        line = f'<path d="M0 4H36" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dashes}"/>'
        entries.append(f'<li><svg width="36" height="8" aria-hidden="true">{line}</svg>{name}</li>')
    note = (
        "Of the scored pixels to which a network gives a class with some probability, the share that has it: on the "
        "diagonal where probabilities mean what they say, below it where the network is too sure."
    )
    legend = f"<ul class=legend>{''.join(entries)}</ul>"
    drawn = f'<div class="charts square">{"".join(charts)}</div>'
    return f"<h3>Reliability</h3><p class=note>{note}</p>{drawn}{legend}"


def _cell(interval: Interval, signed: bool = False) -> str:
    number, _, bounds = interval.percent(signed).replace("-", "\u2212").partition(" ")
    return cell(number, bounds)
