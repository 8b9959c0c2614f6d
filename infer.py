"""Predicts the test tiles with one or more runs, and scores the same runs on the tiles they never saw.

python infer.py --tta                                   the newest run, all its folds
python infer.py runs/fifth runs/seventh --tta           an ensemble of two experiments
python infer.py seventh --views "identity,shift(0,8)"   other views than the runs' own

What the networks say is kept in each run's folder probabilities/, and not predicted again while it fits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lib import data
from lib.config import Config, items
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.files import replacing
from lib.metrics import confusion_matrix, percent, scores
from lib.npz import write_array
from lib.predict import PLAIN, labels
from lib.probabilities import READ_ONLY, Stored, TestTiles, ValidationTiles, ensure, mean
from lib.records import Data, Origin, Scores, Validation, Views
from lib.runs import CONFIG, VALIDATION, Run, find_runs, write_text
from lib.task import CLASSES, HEIGHT, WIDTH
from lib.views import invert_view


def main() -> None:
    """Reads the command line, scores and predicts."""
    args = parse()
    console = Console(args.quiet, args.json)
    views = None if args.views is None else parse_views(args.views)  # None: each run's own
    runs = find_runs(args.run, args.runs)
    background = common_background(runs) if args.allow_background is None else args.allow_background
    dataset = data.load(args.data, test=False)
    if len(dataset.images):
        for run in runs:
            run.check_data(dataset)
    elif args.score_only:
        raise UserError(f"{dataset.source}: no training_set in it; --score-only needs it")
    tiles = None if args.score_only else TestTiles.of(args.data)
    console.facts(
        runs=", ".join(str(run.folder) for run in runs),
        data=f"{dataset.source}: {len(dataset.images)} training tiles, {tiles.count if tiles else 0} test tiles",
    )
    ways: dict[str, tuple[str, ...] | None] = {"plain": PLAIN}
    if args.tta or views:
        ways["tta"] = views
    validation = validate(runs, dataset, ways, background, console)
    if tiles and tiles.count:
        averaged = ways.get("tta", PLAIN)
        stores = ensure(runs, tiles, averaged, console, background)
        origin = Origin(
            runs=validation.runs,
            configs=tuple(run.config.hash() for run in runs),
            data=Data(source=dataset.source, digest=dataset.digest),
            views=used_views(runs, averaged),
            validation=validation,
        )
        save(args.out, tiles.count, masks(stores, background), origin)
        console.line(f"\n{args.out}: masks of {tiles.count} test tiles")
        console.line("next: " + shlex.join(["python", "submission.py", str(args.out)]))
    elif tiles:
        console.line("\nno test_set in the data: nothing to predict")
    console.result(masks=args.out if tiles and tiles.count else None, **validation.model_dump())


def parse() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "run", nargs="*", help="run folders, or experiment folders for all their folds; default: the newest"
    )
    parser.add_argument("--tta", action="store_true", help="average the config's shifted and flipped views")
    parser.add_argument("--views", metavar="NAME,NAME", help="average these views of lib/views.py's table instead")
    parser.add_argument(
        "--allow-background",
        action=argparse.BooleanOptionalAction,
        help="whether class 0 may be predicted; default: as the config says",
    )
    parser.add_argument("--score-only", action="store_true", help="the validation score, no test tiles")
    parser.add_argument("--data", metavar="FILE", help="npz file; default: as train.py")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders lie")
    parser.add_argument("--out", type=Path, default=Path("masks.npz"), metavar="FILE", help="where the masks go")
    add_console_options(parser)
    return parser.parse_args()


def parse_views(text: str) -> tuple[str, ...]:
    """The views of a comma-separated text. Raises UserError unless each can be read and they see every pixel."""
    views = Config.check({"views": items(text)}, "--views", "write e.g. identity,hflip", strict=False).views
    if not np.any([invert_view(view, np.ones((1, HEIGHT, WIDTH)))[1] for view in views], axis=0).all():
        raise UserError(f"--views {text}: some pixels are seen by no view; add identity")
    return views


def common_background(runs: Sequence[Run]) -> bool:
    """Whether the runs' configs let background be predicted. Raises UserError where they do not agree."""
    values = {run.config.predict_background: run for run in runs}
    if len(values) > 1:
        told = ", ".join(f"{run.folder} has predict_background={value}" for value, run in values.items())
        raise UserError(f"{told}; say --allow-background or --no-allow-background")
    return next(iter(values))


def used_views(runs: Sequence[Run], views: tuple[str, ...] | None) -> Views:
    """What the runs are averaged over, where `views` is None each by its own."""
    own = {str(run.folder): run.config.views if views is None else views for run in runs}
    return next(iter(own.values())) if len(set(own.values())) == 1 else own


def decide(probabilities: np.ndarray, background: bool) -> np.ndarray:
    """Labels (n, H, W) uint8 from probabilities (n, H, W, 5): the one rule for validation score and masks."""
    return labels(probabilities, background)


def masks(stores: Sequence[Stored], background: bool) -> Iterator[np.ndarray]:
    """Labels (n, H, W) uint8 of the members' tiles, block by block."""
    for _, probabilities in mean(stores):
        yield decide(probabilities, background)


def validate(
    runs: Sequence[Run],
    dataset: data.Dataset,
    ways: dict[str, tuple[str, ...] | None],
    background: bool,
    console: Console,
) -> Validation:
    """Out-of-fold scores, each tile only by networks that never saw it; written where this set of runs has its own.

    `ways`: the views to average (None: each run's own) by the score's name.
    """
    views = used_views(runs, ways["tta"]) if "tta" in ways else ()
    result = Validation(runs=tuple(str(run.folder) for run in runs), tiles=0, views=views, background=background)
    if not len(dataset.images):
        console.line("no validation: no training_set in the data")
        return result
    count = len(set().union(*(run.split.validation.tolist() for run in runs)))
    if not count:
        console.line("no validation: these runs were trained on every tile")
        return result
    found = {}
    for way, averaged in ways.items():
        confusion = np.zeros((len(CLASSES),) * 2, np.int64)
        for tiles, probabilities in mean(ensure(runs, ValidationTiles(dataset), averaged, console, background)):
            confusion += confusion_matrix(dataset.masks[tiles], decide(probabilities, background))
        found[way] = scores(confusion)
    result = result.model_copy(update={"tiles": count, **{way: Scores(**values) for way, values in found.items()}})
    rows = [
        [way, percent(values["mean_iou"]), *(percent(values["iou"][name]) for name in CLASSES[1:])]
        for way, values in found.items()
    ]
    console.line(f"\nvalidation on {count} tiles, each by networks that never saw it, in percent")
    console.table(["views", "mean IoU", *CLASSES[1:]], rows)
    own = views in ((), used_views(runs, None)) and {run.config.predict_background for run in runs} == {background}
    path = score_file(runs, "" if own else f"{views} {background}")
    try:
        write_text(path, result.to_json())
        console.line(f"\n{path}: the score of {', '.join(result.runs)}")
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        console.line(f"\n{path}: {error.strerror}; the score is not kept")
    return result


def score_file(runs: Sequence[Run], otherwise: str) -> Path:
    """Where the score of a set of runs lies: in the folder that has exactly these, else under a name made from the set.

    `otherwise`: what was done in another way than the configs say; such scores have a name of their own, too.
    """
    folders = sorted(run.folder.resolve() for run in runs)
    common = Path(os.path.commonpath(folders))
    if not otherwise:
        experiment = folders[0].parent
        if folders == sorted(path.parent.resolve() for path in experiment.glob(f"*/{CONFIG}")):
            return experiment / VALIDATION
        if len(folders) == 1:
            return common / VALIDATION
    parts = [*(folder.relative_to(common).as_posix() for folder in folders), otherwise]
    stem, suffix = os.path.splitext(VALIDATION)
    return common / f"{stem}_{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}{suffix}"


def save(path: Path, count: int, masks: Iterator[np.ndarray], origin: Origin) -> None:
    """Writes an npz with `masks` (count, H, W) uint8, block by block, and what made them as JSON in `made_by`."""
    with replacing(path, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        write_array(archive, "masks", (count, HEIGHT, WIDTH), masks)
        text = np.array(origin.to_json())
        write_array(archive, "made_by", text.shape, [text], text.dtype)


if __name__ == "__main__":
    run_main(main)
