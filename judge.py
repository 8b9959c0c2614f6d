"""Judges systems by tiles that their networks never saw: scores with intervals, pairs, what a leaderboard would hide.

python judge.py seventh                     one system: all its folds in one confusion matrix
python judge.py fifth seventh --tta         two, compared tile by tile, each with its averaged views
python judge.py seventh --neighbours labels    the same with and without the labels of neighbouring tiles
python judge.py fifth seventh --decide      also tunes their weights and how probabilities become labels, for infer.py
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import numpy as np

from lib import data
from lib.bootstrap import DRAWS, LEVEL, PUBLIC, SCORED, Interval
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.decision import DECISION, Decision
from lib.evaluation import System, systems
from lib.files import replacing
from lib.frames import mosaic_beside
from lib.groups import FOLDS_BY
from lib.judge import Pair, Pooled, Settled, Standing, common_tiles, compare, ground, settle
from lib.metrics import percent
from lib.neighbours import NEIGHBOURS, clues_for_validation
from lib.predict import PLAIN, parse_views
from lib.probabilities import ValidationTiles, ensure
from lib.runs import find_runs
from lib.task import BIG_ROCK, CLASSES, TEST_TILES


def main() -> None:
    """Reads the command line and judges."""
    args = parse()
    console = Console(args.quiet, args.json)
    views = parse_views(args.views) if args.views is not None else None if args.tta else PLAIN  # None: each run's own
    found = systems(find_runs(args.run, args.runs))
    dataset = data.load(args.data, test=False)
    for system in found:
        for run in system.runs:
            run.check_data(dataset)
    mosaic = mosaic_beside(found[0].folder.parent, dataset, args.data, console)
    tiles = ValidationTiles(dataset, mosaic)
    stores = [ensure(system.runs, tiles, views, console) for system in found]
    pooled = [Pooled.of(*pair) for pair in zip(found, stores)]
    for one, other in combinations(pooled, 2):
        if not len(common_tiles([one, other])):
            names = f"{one.system.name} and {other.system.name}"
            raise UserError(f"{names}: validated on no tile in common, so they do not compare; name runs of one fold")
    drawn = ground(mosaic)
    clues = None
    if args.neighbours != "off":
        clues = clues_for_validation(mosaic, dataset, [run for system in found for run in system.runs])
        pooled = [*(Pooled.heeding(*pair, clues, dataset.masks) for pair in zip(found, stores)), *pooled]
    standings, pairs = compare(pooled, mosaic.groups)
    console.facts(
        data=f"{dataset.source}: {(~dataset.outliers).sum()} clean tiles",
        views="each run's own, averaged" if views is None else ", ".join(views),
        neighbours=NEIGHBOURS[args.neighbours]
        + (f", within reach of {clues.reach:.0%} of the pixels" if clues else ""),
        intervals=f"{LEVEL:.0%}, by {DRAWS:,} draws of {drawn}",
    )
    show_systems(standings, int((~dataset.outliers).sum()), console)
    show_pairs(pairs, pooled, console)
    show_leaderboard(standings, console)
    decision = None
    if args.decide:
        stores = [ensure(one.runs, tiles, views, console, background=False) for one in found]
        pooled = [
            Pooled.heeding(*pair, clues, dataset.masks) if clues else Pooled.of(*pair) for pair in zip(found, stores)
        ]
        settled = settle(pooled, stores, mosaic.groups, dataset, clues)
        show_decision(settled, console)
        write_decision(settled.decision, found, args, console)
        decision = settled.decision.model_dump(mode="json")
    console.result(drawn=drawn, **results(standings, pairs), decision=decision)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "run", nargs="*", help="run folders, or experiment folders for all their folds; default: the newest"
    )
    parser.add_argument("--tta", action="store_true", help="average the config's shifted and flipped views")
    parser.add_argument("--views", metavar="NAME,NAME", help="average these views of lib/views.py's table instead")
    parser.add_argument(
        "--neighbours",
        choices=NEIGHBOURS,
        default="off",
        help="also judge with the labels of neighbouring tiles, as far as other folds hold them",
    )
    parser.add_argument(
        "--decide", action="store_true", help="tune the systems' weights and the decision rule for infer.py --decision"
    )
    parser.add_argument("--data", metavar="FILE", help="npz file; default: as train.py")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders lie")
    add_console_options(parser)
    return parser.parse_args()


def show_systems(standings: Sequence[Standing], clean: int, console: Console) -> None:
    """The scores of each system, and what they are of."""
    rows = []
    for standing in standings:
        pooled, config = standing.pooled, standing.pooled.system.config
        ious = (interval.percent() for interval in standing.intervals)
        rows.append([pooled.system.name, f"{len(pooled.tiles)}", pooled.folds_judged, config.seed, *ious])
    console.line("\nvalidation, each tile by the network that never saw it, intersection over union in percent")
    console.table(["system", "tiles", "folds", "seed", *SCORED], rows)
    for standing in standings:
        if len(standing.pooled.tiles) < clean:
            name, count = standing.pooled.system.name, len(standing.pooled.tiles)
            console.line(f"{name}: {standing.pooled.folds_judged} folds, {count} of {clean} clean tiles")
    for kind in dict.fromkeys(standing.pooled.system.config.folds_by for standing in standings):
        names = [s.pooled.system.name for s in standings if s.pooled.system.config.folds_by == kind]
        console.line(f"folds by {kind} ({', '.join(names)}): {FOLDS_BY[kind]}")


def show_pairs(pairs: Sequence[Pair], pooled: Sequence[Pooled], console: Console) -> None:
    """Each pair's difference, drawn together, and what may be said of it."""
    if not pairs:
        return
    rows = []
    for pair in pairs:
        names = f"{pooled[pair.first].system.name} - {pooled[pair.second].system.name}"
        mean, *classes = pair.differences
        ious = (interval.percent(signed=True) for interval in classes)
        rows.append([names, f"{pair.tiles}", mean.percent(signed=True), mean.verdict, *ious, f"{pair.agreement:.0%}"])
    console.line("\npairs, the first minus the second on the tiles of both, drawn together")
    console.table(["pair", "tiles", "mean IoU", "the first is", *CLASSES[1:], "public agrees"], rows)
    console.line("public agrees: how often a public leaderboard would rank the two as the private one does")


def show_leaderboard(standings: Sequence[Standing], console: Console) -> None:
    """How far public and private scores may lie apart by the choice of tiles alone."""
    console.line(
        f"\na leaderboard of {TEST_TILES:,} such tiles, {PUBLIC:.0%} of them public: public minus private mean IoU"
    )
    rows = [[standing.pooled.system.name, standing.gap.percent(signed=True)] for standing in standings]
    console.table(["system", "median, and 95 % of draws"], rows)


def show_decision(settled: Settled, console: Console) -> None:
    """What was tuned, what each member adds, and what is gained where it was not tuned."""
    decision = settled.decision
    parts = f"tuned on all folds but one and judged on that one, {decision.folds} times"
    console.line(f"\ndecision, {parts}, in percent")
    if len(decision.members) > 1:
        rows = [[name, score.percent(), gain.percent(signed=True)] for name, score, gain in settled.steps]
        console.table(["step", "mean IoU", "gain"], rows)
        console.line("\nmembers of the ensemble: mean IoU alone, and what the weighted ensemble gains by each")
        rows = [
            [member.name, f"{member.weight:.2f}", alone.percent(), adds.percent(signed=True)]
            for member, alone, adds in zip(decision.members, settled.alone, settled.adds)
        ]
        console.table(["member", "weight", "alone", "adds"], rows)
        console.line("\nclass by class")
    rows = []
    for name, gain, offset in zip(SCORED, decision.gains.values(), ("", *decision.rule.offsets)):
        shown = f"{offset:+.1f}" if isinstance(offset, float) else ""
        rows.append([name, percent(gain.argmax), percent(gain.tuned), gain.interval().percent(signed=True), shown])
    console.table(["class", "nothing tuned", "tuned", "gain", "offset of log-probability"], rows)
    if decision.neighbours != "off":
        console.line(f"neighbours' likelihoods count with the exponent {decision.rule.exponent}")
    console.line(
        f"{CLASSES[BIG_ROCK]} of fewer than {decision.rule.least_blob} connected pixels goes to the next class"
    )


def write_decision(decision: Decision, systems: Sequence[System], args: argparse.Namespace, console: Console) -> None:
    """Writes decision.json beside the first system's runs, and says what to do with it."""
    path = systems[0].folder / DECISION
    with replacing(path) as stream:
        stream.write(decision.to_json())
    console.line(f"\n{path}: written")
    words = [*args.run] or [str(systems[0].folder)]
    words += ["--tta"] * args.tta + (["--views", args.views] if args.views else [])
    words += ["--neighbours", args.neighbours] if args.neighbours != "off" else []
    words += ["--data", args.data] if args.data else []
    words += ["--runs", str(args.runs)] if args.runs != Path("runs") else []
    if decision.gain.proven:
        words += ["--decision", "tuned"]
    else:
        console.line("its gain is not above zero with its whole interval: the likeliest class stays the better choice")
    console.line(f"next: python infer.py {shlex.join(words)}")


def results(standings: Sequence[Standing], pairs: Sequence[Pair]) -> dict[str, object]:
    """What --json prints."""
    systems = [
        {
            "name": standing.pooled.system.name,
            "runs": [str(run.folder) for run in standing.pooled.system.runs],
            "tiles": len(standing.pooled.tiles),
            "folds": len(np.unique(standing.pooled.folds)),
            "seed": standing.pooled.system.config.seed,
            "folds_by": standing.pooled.system.config.folds_by,
            "scores": by_name(standing.intervals),
            "public_minus_private": plain(standing.gap),
        }
        for standing in standings
    ]
    names = [system["name"] for system in systems]
    compared = [
        {
            "pair": [names[pair.first], names[pair.second]],
            "tiles": pair.tiles,
            "differences": by_name(pair.differences),
            "verdict": pair.differences[0].verdict,
            "public_ranks_as_private": pair.agreement,
        }
        for pair in pairs
    ]
    return {"systems": systems, "pairs": compared}


def by_name(intervals: Sequence[Interval]) -> dict[str, dict[str, float | None]]:
    """Intervals by the name of their score."""
    return {name: plain(interval) for name, interval in zip(SCORED, intervals)}


def plain(interval: Interval) -> dict[str, float | None]:
    """An interval for JSON, which has no NaN."""
    return {name: None if np.isnan(number) else number for name, number in asdict(interval).items()}


if __name__ == "__main__":
    run_main(main, memory="name fewer runs at a time")
