"""Takes each part of the best recipe away, or puts another in its place, and judges the difference.

    python ablation.py --data FILE                    every part, three folds, eight minutes a training
    python ablation.py --parts no_flip cutmix         some of them
    make ablation DATA=FILE                           the same as the first

All trainings get the same time, on as many cores as each other: as many epochs as fit. That is measured once for the
whole recipe and all parts that leave a tile's time as it is, which are shown as many tiles; and for each other part.
Goes on where it stopped: finished trainings are not trained again. <runs>/ablation/ablation.md is written anew after
each fold.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lib import data
from lib.augment import epoch_tiles
from lib.bootstrap import DRAWS, LEVEL, Interval
from lib.children import gpus
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.evaluation import System
from lib.experiments import make_config
from lib.files import replacing
from lib.frames import mosaic_beside
from lib.jobs import Here, Training, watching
from lib.judge import Pooled, compare, ground, settle
from lib.neighbours import Judged, clues_for_validation
from lib.predict import PLAIN
from lib.probabilities import Stored, ValidationTiles, ensure
from lib.records import Environment, Minutes, Positive
from lib.runs import ADVICE, ENVIRONMENT, Run, fold_folder
from lib.schema import option
from lib.task import BIG_ROCK

BASE = "best"
SEED = "other_seed"
TABLE = "ablation.md"
PACE = {"attention", "context", "dspp_rates", "semi", "upscale"}  # fields on which a tile's time hangs


@dataclass(frozen=True)
class Part:
    """What differs from BASE, in words and as config settings; its name is its run folder's, too."""

    name: str
    summary: str
    settings: tuple[str, ...]

    @property
    def changes(self) -> tuple[str, ...]:
        """The settings, and the name."""
        return f"experiment={self.name}", *self.settings

    @property
    def timed(self) -> bool:
        """Whether a tile takes another time than with BASE, so that what fits must be measured."""
        return any(text.partition("=")[0] in PACE for text in self.settings)


PARTS = {
    part.name: part
    for part in (
        Part(SEED, "nothing but another seed: what chance does", ("seed=1",)),
        Part("plateau", "the learning rate falls when the score stalls, in place of the cosine", ("schedule=plateau",)),
        Part("no_average", "the last weights, in place of their moving average", ("average=0",)),
        Part("no_flip", "without flips", ("flip=0",)),
        Part("no_shift", "without shifts", ("shift_down=0", "shift_across=0")),
        Part("far_shift", "shifts as far as the report's", ("shift_down=32", "shift_across=64")),
        Part("no_copy_paste", "without copy-paste", ("copy_paste=0",)),
        Part("no_oversampling", "tiles with big rock shown as often as others", ("oversample=1",)),
        Part("cutmix", "CutMix on half of the tiles", ("cutmix=0.5",)),
        Part("background", "background counts in the loss", ("ignore_background=no",)),
        Part("dice", "dice added to the cross-entropy", ("dice=1",)),
        Part("focal", "focal loss in place of cross-entropy", ("cross_entropy=0", "focal=1")),
        Part("inverse", "classes weighted by inverse frequency", ("class_weights=inverse",)),
        Part("shown_prior", "classes taken to be as frequent as training shows them", ("prior=shown",)),
        Part("dropout", "dropout at the bottleneck", ("dropout=0.1",)),
        Part("pyramid", "dilated spatial pyramid at the bottleneck", ("dspp_rates=1,2,3",)),
        Part("attention", "dual attention at the bottleneck", ("attention=dual",)),
        Part("bilinear", "last convolution at full resolution", ("upscale=bilinear",)),
        Part("frame", "the network sees the frame around the tile", ("context=frame",)),
        Part("pseudo", "pseudo-labels on tiles without labels", ("semi=pseudo",)),
        Part("consistency", "own labels on tiles without labels", ("semi=consistency", "cutmix=0.5", "dropout=0.1")),
    )
}


@dataclass(frozen=True)
class Row:
    """A line of the table: what is different, and its validation tiles by themselves and with neighbours' labels.

    `epochs`: None where nothing was trained for it; `alone` is None where it has none without neighbours.
    """

    name: str
    summary: str
    epochs: int | None
    alone: Pooled | None
    heeded: Pooled


def main() -> None:
    """Trains what is missing and writes the table."""
    args = parse()
    console = Console(args.quiet, args.json)
    if unknown := [name for name in args.parts if name not in PARTS]:
        raise UserError(f"--parts {unknown[0]}: no such part; there are {', '.join(PARTS)}")
    parts = [PARTS[name] for name in args.parts]
    for part in parts:
        config = make_config(BASE, tiny=True).override([*args.set, *part.changes])  # or it would fail after hours
    if args.folds > config.folds:
        raise UserError(f"--folds {args.folds}: there are {config.folds}")
    folder = args.runs / "ablation"
    console.facts(table=folder / TABLE, trainings=args.folds * (1 + len(parts)), minutes=f"{args.minutes:g} each")
    dataset, runner = data.load(args.data, test=False), Here(args.jobs)
    taught = [part for part in parts if "semi=pseudo" in part.settings]  # by BASE, which has to end before
    timed = [part for part in parts if part.timed and part not in taught]
    alike = [part for part in parts if not part.timed]  # known only when BASE has begun, how many epochs they get
    rows: list[dict] = []
    for fold in range(args.folds):
        for some in ((None, *timed), alike, taught) if fold == 0 else ((None, *timed, *alike), taught):
            jobs = [job(part, fold, folder, dataset, args) for part in some]
            with watching(jobs, console):
                runner.run(jobs, console)
        rows, text = table(folder, parts, fold + 1, dataset, args, console)
        with replacing(folder / TABLE) as stream:
            stream.write(text)
        console.line("\n" + text)
    console.result(table=folder / TABLE, rows=rows)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), metavar="NAME", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--data", metavar="FILE", help="npz file; default: as train.py")
    parser.add_argument("--folds", type=option(Positive), default=3, metavar="N", help="the first N folds; default 3")
    parser.add_argument("--minutes", type=option(Minutes), default=8.0, metavar="N", help="of a training; default 8")
    parser.add_argument(
        "--jobs", type=option(Positive), metavar="N", help="trainings at a time; default: one for each GPU, or core"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="for all trainings alike"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where the runs lie")
    add_console_options(parser)
    args = parser.parse_args()
    args.jobs = args.jobs or len(gpus()) or os.cpu_count() or 1
    return args


def job(part: Part | None, fold: int, folder: Path, dataset: data.Dataset, args: argparse.Namespace) -> Training:
    """The training of a part; None: BASE itself."""
    settings = (*args.set, *(part.changes if part else ()))
    if part and not part.timed:
        base = Run.open(fold_folder(folder, BASE, 0))
        masks, own = dataset.masks[base.split.train], base.config.override([*part.changes])
        shown, its = (len(epoch_tiles(masks, config, 0)[0]) for config in (base.config, own))
        settings = (*settings, f"epochs={round(base.config.epochs * shown / its)}")
    minutes = args.minutes if part is None or part.timed else None
    return Training(BASE, fold, settings, tiny=True, minutes=minutes, data=args.data, runs=folder)


def table(
    folder: Path, parts: Sequence[Part], folds: int, dataset: data.Dataset, args: argparse.Namespace, console: Console
) -> tuple[list[dict], str]:
    """Judges all parts on the first `folds` folds: the rows with their numbers, and the table."""
    mosaic = mosaic_beside(folder, dataset, args.data, console)
    tiles = ValidationTiles(dataset, mosaic)

    def system(name: str) -> System:
        """The runs of a part, so far."""
        return System(name, folder / name, tuple(Run.open(fold_folder(folder, name, fold)) for fold in range(folds)))

    base = system(BASE)
    clues = clues_for_validation(mosaic, dataset, base.runs)

    def pooled(one: System, *members: Sequence[Stored]) -> tuple[Pooled, Pooled]:
        """A system without and with neighbours, or the mean of the members, each with a store for each fold."""
        alone, heeded = (
            Pooled.of(one, [Judged.of(same, ways, dataset.masks, background=False) for same in zip(*members)])
            for ways in (None, clues)
        )
        return alone, heeded

    stores = ensure(base.runs, tiles, PLAIN, console)
    whole = Row(BASE, "the whole recipe", base.config.epochs, *pooled(base, stores))
    assert whole.alone is not None
    flipped = pooled(base, ensure(base.runs, tiles, None, console))
    rows = [
        Row("no_neighbours", "without the labels of neighbours", None, None, whole.alone),
        Row("views", f"the mean of the views {' and '.join(base.config.views)}", None, *flipped),
    ]
    for part in parts:
        other = system(part.name)
        its = ensure(other.runs, tiles, PLAIN, console)
        rows.append(Row(part.name, part.summary, other.config.epochs, *pooled(other, its)))
        if part.name == SEED:
            rows.append(Row("ensemble", "the mean of both seeds' networks", None, *pooled(base, stores, its)))
    shown = [_numbers(row, whole, mosaic.groups) for row in (whole, *rows)]
    if folds > 1:
        decided = settle([whole.heeded], [stores], mosaic.groups, dataset, clues).steps[-1]
        shown.append(
            dict(
                name="decision", summary="class offsets tuned, nested", epochs=None, heeded=decided[1], gain=decided[2]
            )
        )
    environment = Environment.read(base.runs[0].folder / ENVIRONMENT, ADVICE)
    lines = [
        "| part | what is different | epochs | tile alone | difference | with neighbours | difference | big rock |",
        "|---|---|---|---|---|---|---|---|",
        *("| " + " | ".join(_cells(row)) + " |" for row in shown),
        "",
        f"Mean IoU in percent of {len(whole.heeded.tiles):,} tiles, {folds} of {base.config.folds} folds pooled, seed "
        f"{base.config.seed}; differences from the whole recipe on the same tiles, with their {LEVEL:.0%} intervals by "
        f"{DRAWS:,} draws of {ground(mosaic)}; big rock: the difference of its IoU with neighbours. Bold: the interval "
        f"does not hold zero. As many epochs as fit into {args.minutes:g} minutes, {args.jobs} trainings at a time. "
        f"Data: {Path(dataset.source).name} (digest {dataset.digest[:12]}). Hardware: {environment.device}.",
    ]
    return [_plain(row) for row in shown], "\n".join(lines) + "\n"


def _numbers(row: Row, whole: Row, groups: np.ndarray) -> dict:
    """Scores of a row and its differences from the whole recipe, as Intervals."""
    numbers: dict = dict(name=row.name, summary=row.summary, epochs=row.epochs)
    for way, gain in (("alone", "alone_gain"), ("heeded", "gain")):
        its, full = getattr(row, way), getattr(whole, way)
        if its is None:
            continue
        standings, pairs = compare([its, full], groups)
        numbers[way] = standings[0].intervals[0]
        if row is not whole:
            numbers[gain] = pairs[0].differences[0]
            numbers["rock"] = pairs[0].differences[BIG_ROCK]
    return numbers


def _cells(row: dict) -> list[str]:
    """A line of the table."""

    def gain(name: str) -> str:
        """A difference, bold where it is not undecided; nothing where there is none."""
        if name not in row:
            return ""
        text = row[name].percent(signed=True)
        return text if row[name].verdict == "undecided" else f"**{text}**"

    scores = [f"{100 * row[way].value:.2f}" if way in row else "" for way in ("alone", "heeded")]
    epochs = "" if row["epochs"] is None else str(row["epochs"])
    return [
        row["name"], row["summary"], epochs, scores[0], gain("alone_gain"), scores[1], gain("gain"), gain("rock")
    ]  # fmt: skip


def _plain(row: dict) -> dict:
    """A row for --json."""
    return {key: asdict(value) if isinstance(value, Interval) else value for key, value in row.items()}


if __name__ == "__main__":
    run_main(main, memory="lower --jobs, or batch_size or width with --set")
