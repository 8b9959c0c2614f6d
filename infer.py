"""Predicts the test tiles with one or more runs, and scores the same runs on the tiles they never saw.

python infer.py --tta                            the newest run, all its folds
python infer.py runs/fifth runs/seventh --tta    an ensemble of two experiments
"""

from __future__ import annotations

import argparse
import json
import shlex
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lib import data
from lib.console import Console, UserError, add_console_options, run_main
from lib.files import replacing
from lib.metrics import confusion_matrix, percent, scores
from lib.npz import write_array
from lib.predict import PLAIN, Ensemble, labels
from lib.runs import VALIDATION, find_runs, write_json
from lib.task import CLASSES, HEIGHT, WIDTH

CHUNK = 512  # tiles whose probabilities are held at a time: 84 MB


def main() -> None:
    """Reads the command line, scores and predicts."""
    args = parse()
    console = Console(args.quiet, args.json)
    runs = find_runs(args.run, args.runs)
    dataset = data.load(args.data, test=False)
    count, tiles = (0, iter(())) if args.score_only else data.read_test(args.data, CHUNK)
    console.facts(
        runs=", ".join(str(run.folder) for run in runs),
        data=f"{dataset.source}: {len(dataset.images)} training tiles, {count} test tiles",
    )
    for run in runs:
        run.check_data(dataset)
    views = common(runs, "views") if args.tta else ()
    ensemble = load(runs)
    validation = validate(runs, ensemble, dataset, views, console)
    if count:
        made_by = {
            "runs": [str(run.folder) for run in runs],
            "configs": [run.config.hash() for run in runs],
            "data": {"source": dataset.source, "digest": dataset.digest},
            "views": list(views) or ["identity"],
            "validation": validation,
        }
        with console.progress(count, "test", "tile") as bar:
            masks = predict(ensemble, tiles, views, common(runs, "predict_background"), bar)
            save(args.out, count, masks, made_by)
        console.line(f"\n{args.out}: masks of {count} test tiles")
        console.line("next: " + shlex.join(["python", "submission.py", str(args.out)]))
    elif not args.score_only:
        console.line("\nno test_set in the data: nothing to predict")
    console.result(masks=args.out if count else None, **validation)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "run", nargs="*", help="run folders, or experiment folders for all their folds; default: the newest"
    )
    parser.add_argument("--tta", action="store_true", help="average the config's shifted and flipped views")
    parser.add_argument("--score-only", action="store_true", help="the validation score, no test tiles")
    parser.add_argument("--data", metavar="FILE", help="npz file; default: as train.py")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders lie")
    parser.add_argument("--out", type=Path, default=Path("masks.npz"), metavar="FILE", help="where the masks go")
    add_console_options(parser)
    return parser.parse_args()


def common(runs: list, field: str):
    """The value of a config field in which all runs agree. Raises UserError when they do not."""
    values = {getattr(run.config, field): run for run in runs}
    if len(values) > 1:
        (first, one), (second, other) = list(values.items())[:2]
        raise UserError(f"{field}: {one.folder} has {first}, {other.folder} has {second}; average runs that agree")
    return next(iter(values))


def load(runs: list):
    """The runs' networks as one lib.predict.Ensemble, in the order of the runs."""
    models: dict = {}
    members = []
    for run in runs:
        # Folds of one experiment share their network; only the weights differ
        key = run.config.replace(seed=0).hash()
        if key not in models:
            models[key] = run.build_model()
        members.append((models[key], run.weights(models[key]), run.folder))
    return Ensemble(members)


def validate(runs: list, ensemble, dataset, views: tuple[str, ...], console: Console) -> dict:
    """Out-of-fold score, each tile only by networks that never saw it; written beside the folds of one experiment."""
    unseen = [set(run.split.validation.tolist()) for run in runs]
    tiles = np.array(sorted(set().union(*unseen)), np.int64)
    result: dict = {"tiles": len(tiles), "plain": None, "tta": None, "views": list(views)}
    if not len(tiles):
        console.line("no validation: these runs were trained on every tile")
        return result
    background = common(runs, "predict_background")
    ways = {"plain": PLAIN, **({"tta": views} if views else {})}
    confusion = {way: np.zeros((len(CLASSES),) * 2, np.int64) for way in ways}
    groups: dict[tuple[int, ...], list[int]] = {}
    for tile in tiles:
        groups.setdefault(tuple(n for n, seen in enumerate(unseen) if tile in seen), []).append(tile)
    with console.progress(len(tiles), "validation", "tile") as bar:
        for members, group in groups.items():
            for start in range(0, len(group), CHUNK):
                part = group[start : start + CHUNK]
                for way, chosen in ways.items():
                    answer = labels(ensemble.predict(dataset.images[part], chosen, members), background)
                    confusion[way] += confusion_matrix(dataset.masks[part], answer)
                bar.update(len(part))
    result |= {way: scores(matrix) for way, matrix in confusion.items()}
    rows = [
        [way, percent(result[way]["mean_iou"]), *(percent(result[way]["iou"][name]) for name in CLASSES[1:])]
        for way in ways
    ]
    console.line(f"\nvalidation on {len(tiles)} tiles, each by networks that never saw it, in percent")
    console.table(["views", "mean IoU", *CLASSES[1:]], rows)
    if len(folders := {run.folder.parent for run in runs}) == 1:
        write_json(folders.pop() / VALIDATION, {"runs": [str(run.folder) for run in runs], **result})
    return result


def predict(
    ensemble, blocks: Iterator[np.ndarray], views: tuple[str, ...], background: bool, bar
) -> Iterator[np.ndarray]:
    """Masks (B, H, W) uint8 of each block of tiles (B, H, W) uint8, as the blocks come."""
    for tiles in blocks:
        yield labels(ensemble.predict(tiles, views or PLAIN), background)
        bar.update(len(tiles))


def save(path: Path, count: int, masks: Iterator[np.ndarray], made_by: dict) -> None:
    """Writes an npz with `masks` (count, H, W) uint8, block by block, and what made them as JSON in `made_by`."""
    with replacing(path, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        write_array(archive, "masks", (count, HEIGHT, WIDTH), masks)
        text = np.array(json.dumps(made_by, default=str))
        write_array(archive, "made_by", text.shape, [text], text.dtype)


if __name__ == "__main__":
    run_main(main, memory="name fewer runs at a time")
