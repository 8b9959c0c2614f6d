"""Predicts the test tiles with one or more runs, and scores the same runs on the tiles they never saw.

python infer.py --tta                                   the newest run, all its folds
python infer.py runs/fifth runs/seventh --tta           an ensemble of two experiments
python infer.py seventh --views "identity,shift(0,8)"   other views than the runs' own
python infer.py --tta --neighbours labels               neighbouring tiles' labels count, too
python infer.py fifth seventh --decision tuned          weights and rule that judge.py --decide tuned for these
python infer.py best --tta --frames DIR --out DIR       camera frames of any size, to masks in the palette
python infer.py best --frames DIR --out DIR --ray       dealt out by Ray: on this machine, or with ADDRESS on a cluster

What the networks say is kept in each run's folder probabilities/, and not predicted again while it fits. Frames are
grey PNG, JPEG, TIFF, IMG or VICAR of 8 or 16 bits; those whose masks are finished are left out the next time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lib import data
from lib.batches import deal_out
from lib.children import gpus
from lib.cluster import add_ray_option
from lib.config import Neighbours
from lib.console import USER_ERROR_EXIT, ArgumentParser, Console, UserError, add_console_options, run_main
from lib.decision import Decision, decide, find_decision
from lib.files import replacing, sha256
from lib.frames import mosaic_beside
from lib.metrics import percent, scores
from lib.neighbours import EXPONENT, NEIGHBOURS, Clues, Judged, clues_for_test, clues_for_validation
from lib.npz import write_array
from lib.predict import PLAIN, labels, parse_views
from lib.probabilities import READ_ONLY, Network, Stored, TestTiles, ValidationTiles, ensure, mean
from lib.records import Data, Origin, Positive, Scores, Validation, Views
from lib.runs import CONFIG, VALIDATION, WEIGHTS, Run, find_runs, write_text
from lib.schema import option
from lib.segment import Ensemble, segment_all
from lib.task import CLASSES, HEIGHT, WIDTH

SHOWN = {"informed": "with neighbours"}  # what the table calls a score that has another name in validation.json


def main() -> int | None:
    """Reads the command line, scores and predicts."""
    args = parse()
    console = Console(args.quiet, args.json)
    views = None if args.views is None else parse_views(args.views)  # None: each run's own
    runs = find_runs(args.run, args.runs)
    if args.frames:
        return segment_frames(args, runs, (views if args.tta or views else PLAIN), console)
    out = args.out or Path("masks.npz")
    ways: dict[str, tuple[str, ...] | None] = {"plain": PLAIN}
    if args.tta or views:
        ways["tta"] = views
    averaged = ways.get("tta", PLAIN)
    decision, shares = find_weights(runs, averaged, args.decision == "tuned")
    background = choose_background(runs, args.allow_background, decision)
    neighbours = choose_neighbours(runs, args.neighbours, decision)
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
    mosaic = None
    if neighbours != "off" and not len(dataset.images):
        console.line("no training_set in the data, so no neighbour has a label: each tile is predicted by itself")
        neighbours = "off"
    if neighbours != "off" or any(run.config.context != "off" for run in runs):
        mosaic = mosaic_beside(runs[0].folder.parent.parent, dataset, args.data, console)
        if not len(mosaic.neighbours):
            console.line("no two tiles were found to be neighbours: each is predicted by itself")
    network = Network()
    validation = validate(runs, ValidationTiles(dataset, mosaic), ways, background, neighbours, network, console)
    if tiles and tiles.count:
        if decision:
            tell(decision, console)
        counted = [run for run, share in zip(runs, shares) if share]
        stores = ensure(counted, replace(tiles, mosaic=mosaic), averaged, console, background, network)
        origin = Origin(
            runs=validation.runs,
            configs=tuple(run.config.hash() for run in runs),
            data=Data(source=dataset.source, digest=dataset.digest),
            views=used_views(runs, averaged),
            validation=validation,
            neighbours=neighbours,
            decision=decision,
        )
        clues = clues_for_test(mosaic, dataset) if mosaic and neighbours != "off" else None
        if clues:
            console.line(f"\nneighbours: a label lies in the frame of {clues.reach:.1%} of the test tiles' pixels")
        found = masks(stores, shares[shares > 0], background, clues, decision)
        save(out, tiles.count, found, origin)
        console.line(f"\n{out}: masks of {tiles.count} test tiles")
        console.line("next: " + shlex.join(["python", "submission.py", str(out)]))
    elif tiles:
        console.line("\nno test_set in the data: nothing to predict")
    console.result(masks=out if tiles and tiles.count else None, **validation.model_dump())
    return None


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
    parser.add_argument(
        "--neighbours",
        choices=NEIGHBOURS,
        help="what else a prediction heeds; default: as the decision or the runs' config says",
    )
    parser.add_argument(
        "--decision",
        choices=("argmax", "tuned"),
        default="argmax",
        help="the likeliest class of the mean probabilities, or the weights and rule that judge.py --decide left",
    )
    parser.add_argument("--score-only", action="store_true", help="the validation score, no test tiles")
    parser.add_argument("--data", metavar="FILE", help="npz file; default: as train.py")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders lie")
    parser.add_argument(
        "--frames",
        nargs="+",
        type=Path,
        metavar="DIR|FILE",
        help="a folder of camera frames, or some of them, in place of the npz file",
    )
    parser.add_argument(
        "--jobs",
        type=option(Positive),
        metavar="N",
        help="with --frames: so many processes share them; default: one, or one for each GPU",
    )
    add_ray_option(parser, "frames")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where the masks go; default: masks.npz; with --frames a folder"
    )
    add_console_options(parser)
    args = parser.parse_args()
    if args.frames:
        if args.out is None:
            raise UserError("--frames: say with --out which folder the masks go to")
        unfit = dict(data=args.data, score_only=args.score_only, neighbours=args.neighbours not in (None, "off"))
        unfit["decision"] = args.decision != "argmax"
        for name in (name for name, given in unfit.items() if given):
            raise UserError(f"--{name.replace('_', '-')}: is about tiles of an npz file; leave it or --frames out")
    elif args.jobs or args.ray is not None:
        name = "--jobs" if args.jobs else "--ray"
        raise UserError(f"{name}: deals frames out; name them with --frames, or leave it out")
    return args


def segment_frames(
    args: argparse.Namespace, runs: Sequence[Run], views: tuple[str, ...] | None, console: Console
) -> int | None:
    """Masks of frames. The exit code is that of bad input where one of them could not be read."""
    ensemble = Ensemble(runs, views, choose_background(runs, args.allow_background, None))
    console.facts(
        runs=", ".join(str(run.folder) for run in runs),
        views=used_views(runs, views),
        frames=args.frames[0] if len(args.frames) == 1 else f"{len(args.frames)} files",
    )
    try:
        if args.ray is not None or (args.jobs or len(gpus())) > 1:
            found = deal_out(ensemble, args.frames, args.out, args.ray, args.jobs, console)
        else:
            found = segment_all(ensemble, args.frames, args.out, console)
    except KeyboardInterrupt:
        console.line("\nfinished masks stay; the same command goes on")
        raise
    counts = ", ".join(f"{len(frames)} {what}" for what, frames in found.items() if frames)
    console.line(f"\n{args.out}: {counts}")
    console.result(out=args.out, **{what: [str(frame) for frame in frames] for what, frames in found.items()})
    return USER_ERROR_EXIT if found["failed"] else None


def choose_background(runs: Sequence[Run], asked: bool | None, decision: Decision | None) -> bool:
    """Whether background may be predicted. Raises UserError where that is not clear."""
    if decision:
        if asked:
            raise UserError(
                "--allow-background: no tuned decision predicts background; leave one of the two options out"
            )
        return False
    if asked is not None:
        return asked
    return agreed(runs, "predict_background", "--allow-background or --no-allow-background")


def choose_neighbours(runs: Sequence[Run], asked: Neighbours | None, decision: Decision | None) -> Neighbours:
    """What is heeded besides each tile itself. Raises UserError where that is not clear."""
    if decision:
        if asked and asked != decision.neighbours:
            raise UserError(
                f"--neighbours {asked}: the decision was tuned with --neighbours {decision.neighbours}; leave it out"
            )
        return decision.neighbours
    return asked or agreed(runs, "neighbours", "--neighbours")


def agreed(runs: Sequence[Run], field: str, options: str):
    """The value of a config field that all runs share. Raises UserError, naming `options`, where they differ."""
    values = {getattr(run.config, field): run for run in runs}
    if len(values) > 1:
        told = ", ".join(f"{run.folder} has {field}={value}" for value, run in values.items())
        raise UserError(f"{told}; say {options}")
    return next(iter(values))


def find_weights(runs: Sequence[Run], views: tuple[str, ...] | None, tuned: bool) -> tuple[Decision | None, np.ndarray]:
    """What was tuned for these runs and views, if anything is asked for, and the weight of each run (N,) float64.

    Raises UserError where nothing was tuned for them.
    """
    if not tuned:
        return None, np.ones(len(runs))
    made_of = [(sha256(run.folder / WEIGHTS), run.config.views if views is None else views) for run in runs]
    decision, shares = find_decision([run.folder.parent for run in runs], runs[0].split.digest, made_of)
    return decision, np.array(shares)


def tell(decision: Decision, console: Console) -> None:
    """What a decision is worth."""
    gain = decision.gain.interval().percent(signed=True)
    doubt = "" if decision.gain.proven else "; not above zero with its whole interval: --decision argmax is safer"
    console.line(f"\ndecision: tuned; mean IoU {gain} points where it was not tuned{doubt}")


def used_views(runs: Sequence[Run], views: tuple[str, ...] | None) -> Views:
    """What the runs are averaged over, where `views` is None each by its own."""
    own = {str(run.folder): run.config.views if views is None else views for run in runs}
    return next(iter(own.values())) if len(set(own.values())) == 1 else own


def masks(
    stores: Sequence[Stored], shares: np.ndarray, background: bool, clues: Clues | None, decision: Decision | None
) -> Iterator[np.ndarray]:
    """Labels (n, H, W) uint8 of the test tiles, block by block; `shares` are the members' weights."""
    exponent = decision.rule.exponent if decision else EXPONENT
    for tiles, probabilities in mean(stores, weights=shares):
        if clues:
            probabilities = clues.heeded(clues.tiles[tiles], probabilities, exponent)
        yield decide(probabilities, decision.rule) if decision else labels(probabilities, background)


def validate(
    runs: Sequence[Run],
    tiles: ValidationTiles,
    ways: dict[str, tuple[str, ...] | None],
    background: bool,
    neighbours: Neighbours,
    network: Network,
    console: Console,
) -> Validation:
    """Out-of-fold scores, each tile only by networks that never saw it; written where this set of runs has its own.

    `ways`: the views to average (None: each run's own) by the score's name.
    """
    dataset = tiles.dataset
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
        stores = ensure(runs, tiles, averaged, console, background, network)
        found[way] = score(stores, dataset, background)
    if tiles.mosaic and neighbours != "off":
        found["informed"] = score(stores, dataset, background, clues_for_validation(tiles.mosaic, dataset, runs))
    result = result.model_copy(update={"tiles": count, **{way: Scores(**values) for way, values in found.items()}})
    rows = [
        [SHOWN.get(way, way), percent(values["mean_iou"]), *(percent(values["iou"][name]) for name in CLASSES[1:])]
        for way, values in found.items()
    ]
    console.line(f"\nvalidation on {count} tiles, each by networks that never saw it, in percent")
    console.table(["views", "mean IoU", *CLASSES[1:]], rows)
    choices = {(run.config.predict_background, run.config.neighbours) for run in runs}
    own = views in ((), used_views(runs, None)) and choices == {(background, neighbours)}
    path = score_file(runs, "" if own else f"{views} {background}" + f" {neighbours}" * (neighbours != "off"))
    try:
        write_text(path, result.to_json())
        console.line(f"\n{path}: the score of {', '.join(result.runs)}")
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        console.line(f"\n{path}: {error.strerror}; the score is not kept")
    return result


def score(stores: Sequence[Stored], dataset: data.Dataset, background: bool, clues: Clues | None = None) -> dict:
    """The scores of the stores' mean on all of their tiles, by the likeliest class."""
    return dict(scores(Judged.of(stores, clues, dataset.masks, background).confusions.sum(axis=0)))


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
