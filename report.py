"""Shows in a page where runs are right and wrong: report.html, and pictures beside each run.

python report.py                           the newest experiment, all its folds
python report.py fifth seventh             two experiments side by side
python report.py seventh --neighbours labels         also what the labels of neighbouring tiles change
python report.py seventh --picture FILE    only a picture of four tiles, as in the README
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib import data, figures
from lib.audit import audit
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.decision import decisions_for
from lib.evaluation import evaluate, join, systems
from lib.files import replacing, sha256, writable
from lib.frames import Mosaic, mosaic_beside
from lib.judge import Pooled, compare, ground
from lib.metrics import percent, scores
from lib.neighbours import NEIGHBOURS, clues_for_validation
from lib.predict import PLAIN
from lib.probabilities import ValidationTiles, ensure
from lib.report import neighbours
from lib.report.page import build
from lib.report.verdicts import Verdicts
from lib.runs import WEIGHTS, find_runs
from lib.task import BIG_ROCK, CLASSES

SHOWN = 8  # tiles in worst.png and best.png
OFF = "<p class=note>Shown by <code>python report.py ... --neighbours labels</code>.</p>"


def main() -> None:
    """Reads the command line, predicts the validation tiles and draws."""
    args = parse()
    console = Console(args.quiet, args.json)
    chosen = systems(find_runs(args.run, args.runs))
    dataset = data.load(args.data)
    console.facts(
        runs=", ".join(str(run.folder) for system in chosen for run in system.runs),
        data=f"{dataset.source}: {len(dataset.images)} training tiles",
    )
    mosaic, clues = None, None
    looked_at = any(system.config.context != "off" for system in chosen)
    if looked_at or args.neighbours != "off" or not args.picture:
        mosaic = mosaic_beside(chosen[0].folder.parent, dataset, args.data, console)
    tiles = ValidationTiles(dataset, mosaic)
    if mosaic and args.neighbours != "off":
        clues = clues_for_validation(mosaic, dataset, [run for system in chosen for run in system.runs])
    if args.picture:
        if mosaic and clues:
            neighbours.draw(args.picture, mosaic, dataset, ensure(chosen[0].runs, tiles, PLAIN, console), clues)
        else:
            draw_sample(args.picture, dataset, join(evaluate(chosen[0].runs, tiles, console)))
        console.line(f"\n{args.picture}: written")
        console.result(picture=args.picture)
        return
    evaluated, pooled = [], []
    for system in chosen:
        evaluations = evaluate(system.runs, tiles, console)
        for run, evaluation in zip(system.runs, evaluations):
            if writable(run.folder):
                draw_run(run, evaluation, dataset)
            else:
                console.line(f"{run.folder}: cannot be written; its pictures are left out")
        evaluated.append((system, join(evaluations)))
        if len(evaluated[-1][1].tiles):
            pooled.append(Pooled.of(system, evaluations))
    verdicts, section = Verdicts([], [], "", []), OFF
    if mosaic and pooled:
        heeding = []
        if clues:
            each = [ensure(one.system.runs, tiles, PLAIN, console) for one in pooled]
            heeding = [Pooled.heeding(one.system, stores, clues, dataset.masks) for one, stores in zip(pooled, each)]
            section = neighbours.build(mosaic, dataset, each[0], clues)
        verdicts = judge(heeding + pooled, dataset, mosaic)
    write_page(args.out, evaluated, verdicts, section, dataset, console)


def judge(pooled: Sequence[Pooled], dataset: data.Dataset, mosaic: Mosaic) -> Verdicts:
    """What may be said of the systems, and the decisions that were tuned for them."""
    folders = [one.system.folder for one in pooled]
    digests = {sha256(run.folder / WEIGHTS) for one in pooled for run in one.system.runs}
    return Verdicts(*compare(pooled, mosaic.groups), ground(mosaic), decisions_for(folders, dataset.digest, digests))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("run", nargs="*", help="run folders, or experiment folders for all folds; default: the newest")
    parser.add_argument("--data", metavar="FILE", help="npz file; default: as train.py")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders lie")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="where the page goes")
    parser.add_argument(
        "--neighbours", choices=NEIGHBOURS, default="off", help="also show what the labels of neighbouring tiles change"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="draw four validation tiles (with --neighbours: frames) and nothing else",
    )
    add_console_options(parser)
    return parser.parse_args()


def draw_run(run, evaluation, dataset) -> None:
    """curves.png beside the run, and where it has a validation fold confusion.png, worst.png and best.png."""
    figures.curves(run.folder / "curves.png", {f"{run.folder.parent.name}/{run.folder.name}": run.history()})
    order = evaluation.worst_first()
    if len(order):
        figures.confusion(run.folder / "confusion.png", evaluation.confusions.sum(axis=0))
        figures.mistakes(run.folder / "worst.png", dataset, evaluation, order[:SHOWN])
        figures.mistakes(run.folder / "best.png", dataset, evaluation, order[::-1][:SHOWN])


def draw_sample(path: Path, dataset, evaluation) -> None:
    """Four validation tiles that show several classes, from rather bad to rather good; the first with big rock if any.

    Raises UserError when there is none.
    """
    masks = dataset.masks[evaluation.tiles]
    shares = np.stack([(masks == label).mean(axis=(1, 2)) for label in range(len(CLASSES))], axis=1)
    # Two classes or more that can be seen, and little that nobody labelled
    varied = ((shares[:, 1:] > 0.01).sum(axis=1) >= 2) & (shares[:, 0] < 0.3)
    order = [position for position in evaluation.worst_first() if varied[position]]
    if not order:
        raise UserError("--picture: no validation tile shows two classes; name a run with a validation fold")
    rocky = shares[:, BIG_ROCK] > 0.005
    rocks = [position for position in evaluation.worst_first() if rocky[position]]
    first = rocks[len(rocks) // 2 :][:1]
    others = [position for position in order if position not in first]
    chosen = [*first, *dict.fromkeys(others[int(share * len(others))] for share in (0.25, 0.5, 0.75) if others)]
    figures.mistakes(path, dataset, evaluation, chosen)


def write_page(path: Path, evaluated: list, judged: Verdicts, section: str, dataset, console: Console) -> None:
    """Writes the report and prints the scores in it."""
    text = build(evaluated, dataset, audit(dataset), judged, section)
    with replacing(path, encoding="utf-8") as stream:
        stream.write(text)
    scored = [(system.name, found) for system, found in evaluated if found.scored.any()]
    results = {name: scores(found.confusions.sum(axis=0)) for name, found in scored}
    rows = []
    for name, found in results.items():
        ious = [found["mean_iou"], *(found["iou"][label] for label in CLASSES[1:])]
        rows.append([name, *map(percent, ious)])
    console.line("\nvalidation, intersection over union in percent")
    console.table(["system", "mean IoU", *CLASSES[1:]], rows)
    console.line(f"\n{path}: {len(text.encode()) / 1e6:.1f} MB; open it in a browser")
    console.result(report=path, systems=results)


if __name__ == "__main__":
    run_main(main, memory="name fewer runs at a time")
