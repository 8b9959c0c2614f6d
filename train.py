"""Trains one experiment on chosen folds and writes runs/<experiment>/fold_<k>/.

python train.py --list
python train.py seventh --tiny                       generated terrain, a laptop
python train.py seventh --data FILE --fold all       five folds of the competition's file
python train.py seventh --fold none --set epochs=70  every clean tile, for the last submission
python train.py best --minutes 60                    as many epochs as fit, of all chosen folds together
python train.py best_pseudo                          learns from tiles without labels, too, what best says of them
python train.py best --fold all --seeds 0,1 --jobs 2 two trainings at a time; seed 1 goes into runs/best_1
python train.py best --fold all --ray                dealt out by Ray: on this machine, or with ADDRESS on a cluster
python train.py seventh --resume                     after Ctrl-C, a crash or a full disk
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from lib import data
from lib.children import gpus
from lib.cluster import Cluster, add_ray_option
from lib.config import Config, Seed, assignment
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.context import Surroundings, show
from lib.experiments import EXPERIMENTS, make_config
from lib.frames import Mosaic, kept_in, mosaic_beside
from lib.groups import FOLDS_BY
from lib.jobs import Here, Runner, Training, watching
from lib.locks import locked
from lib.metrics import percent
from lib.probabilities import ValidationTiles
from lib.pseudo import Unlabelled, find_teachers, pseudo_labels, without_labels
from lib.records import Metrics, Minutes, Positive
from lib.runs import ADVICE, CONFIG, Run, Split, fold_folder, load_data, prepare
from lib.schema import option
from lib.task import CLASSES


def main() -> None:
    """Reads the command line and trains."""
    args = parse()
    console = Console(args.quiet, args.json)
    if args.list:
        return list_experiments(console)
    if args.experiment is None:
        raise UserError("name an experiment, such as `python train.py seventh`; `--list` shows all")
    config = make_config(args.experiment, args.tiny).override(args.set)
    if args.minutes and any(text.partition("=")[0].strip() == "epochs" for text in args.set):
        raise UserError("--minutes: works the epochs out; leave it out, or epochs out of --set")
    configs = [with_seed(config, seed) for seed in args.seeds or (config.seed,)]
    folds = config.chosen_folds(args.fold)
    runner = find_runner(args, len(configs) * len(folds))
    if args.minutes and (runner or len(configs) > 1):
        raise UserError("--minutes: is for the folds of one seed, one after the other; set epochs in its place")
    try:
        dataset = load_data(args.data, config)
        if runner:
            done = deal_out(configs, folds, runner, dataset, args, console)
        else:
            done = [each for config in configs for each in train(config, folds, dataset, args, console)]
    except KeyboardInterrupt:
        options = [option for option in sys.argv[1:] if option != "--resume"]
        console.line(f"\nto go on: python train.py {shlex.join(options)} --resume")
        raise
    report(done, args, console)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("experiment", nargs="?", help="one of --list")
    parser.add_argument("--list", action="store_true", help="show the experiments with their differences")
    parser.add_argument("--data", metavar="FILE", help="npz file; default: the competition's, else generated terrain")
    parser.add_argument(
        "--fold", default="0", help="folds such as 0 or 0,2, all, or none: train on every tile; default 0"
    )
    parser.add_argument("--tiny", action="store_true", help="fewer filters and epochs: for a laptop")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change config fields: see lib/config.py",
    )
    parser.add_argument(
        "--minutes",
        type=option(Minutes),
        metavar="N",
        help="train for as many epochs as fit into so much time, of all chosen folds together",
    )
    parser.add_argument(
        "--seeds",
        type=seeds,
        metavar="N,N",
        help="train with each of them; the run of another than the config's own lies in runs/EXPERIMENT_N",
    )
    parser.add_argument(
        "--jobs", type=option(Positive), metavar="N", help="trainings at a time; default: one, or one for each GPU"
    )
    add_ray_option(parser, "trainings")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders lie")
    parser.add_argument("--resume", action="store_true", help="go on where an earlier training ended")
    parser.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="also write TensorBoard's files, a folder per run"
    )
    add_console_options(parser)
    return parser.parse_args()


def list_experiments(console: Console) -> None:
    """Prints every experiment as its differences from the one before."""
    for experiment in EXPERIMENTS.values():
        base = f"{experiment.base} + " if experiment.base else ""
        changes = " ".join(assignment(key, value) for key, value in experiment.changes.items())
        console.line(f"{experiment.name:<20}{experiment.summary}\n{'':<20}{base}{changes}")
    console.result(
        experiments={
            experiment.name: {"base": experiment.base, **experiment.changes} for experiment in EXPERIMENTS.values()
        }
    )


def seeds(text: str) -> tuple[int, ...]:
    """The seeds of a comma-separated text, each once."""
    return tuple(dict.fromkeys(option(Seed)(number) for number in text.split(",")))


def with_seed(config: Config, seed: int) -> Config:
    """The config with another seed, and under a name that says so; its folds stay."""
    if seed == config.seed:
        return config
    return config.replace(seed=seed, experiment=f"{config.experiment}_{seed}")


def find_runner(args: argparse.Namespace, trainings: int) -> Runner | None:
    """Who deals so many trainings out; None where this process trains one after the other."""
    if args.ray is not None:
        return Cluster(args.ray, args.jobs)
    at_once = min(args.jobs or len(gpus()), trainings) if trainings > 1 else 1
    return Here(at_once) if at_once > 1 else None


def deal_out(
    configs: Sequence[Config],
    folds: Sequence[int | None],
    runner: Runner,
    dataset: data.Dataset,
    args: argparse.Namespace,
    console: Console,
) -> list[tuple[Run, Metrics]]:
    """Has a runner train the chosen folds of each config."""
    if args.tensorboard:
        raise UserError("--tensorboard: is for trainings one after the other; leave it out, or --jobs and --ray")
    jobs = [job for config in configs for job in jobs_of(config, folds, dataset, args, console)]
    with watching(jobs, console):
        runner.run(jobs, console)
    runs = [Run.open(job.folder) for job in jobs]
    return [(run, run.metrics()) for run in runs]


def jobs_of(
    config: Config, folds: Sequence[int | None], dataset: data.Dataset, args: argparse.Namespace, console: Console
) -> list[Training]:
    """The trainings of a config. What one of them would be refused for is said now, and not when its turn comes."""
    tell(config, dataset, console)
    splits = Split.each(dataset, config, folds)
    runs = [prepare(_folder(split, config, args), config, split, args.resume) for split in splits]
    teachers = find_teachers(runs, args.runs, dataset) if config.semi == "pseudo" else []
    needs = [[teacher.folder] for teacher in teachers] or [[] for _ in runs]
    if needs_mosaic(config, teachers):  # found once, before they all look for it
        kept = kept_in(args.runs, mosaic_beside(args.runs, dataset, args.data, console).key)
        needs = [[*its, kept] for its in needs]
    settings = (*args.set, f"experiment={config.experiment}", f"seed={config.seed}")
    return [
        Training(args.experiment, fold, settings, args.tiny, data=args.data, runs=args.runs, needs=tuple(its))
        for fold, its in zip(folds, needs)
    ]


def needs_mosaic(config: Config, teachers: Sequence[Run | None]) -> bool:
    """Whether a training with such a config, or what its teachers say, looks at more than a tile."""
    heeded = config.semi != "none" and config.neighbours != "off"
    return heeded or any(each.context != "off" for each in (config, *(one.config for one in teachers if one)))


def tell(config: Config, dataset: data.Dataset, console: Console, named: bool = True) -> None:
    """What is going to be trained; `named`: whether the config is known to the last field."""
    console.facts(
        experiment=config.experiment + (f" ({config.hash()})" if named else ""),
        data=f"{dataset.source}: {(~dataset.outliers).sum()} tiles, {dataset.outliers.sum()} outliers removed",
        folds=f"{config.folds}, stratified; {FOLDS_BY[config.folds_by]}",
    )


def train(
    config: Config, folds: Sequence[int | None], dataset: data.Dataset, args: argparse.Namespace, console: Console
) -> list[tuple[Run, Metrics]]:
    """Trains the chosen folds one after the other."""
    tell(config, dataset, console, not args.minutes)
    splits = Split.each(dataset, config, folds)
    folders = [_folder(split, config, args) for split in splits]
    begun = epochs_begun(folders[0].parent, config) if args.minutes else None
    if begun:
        console.line(f"{folders[0].parent}: has a fold with {begun} epochs, so all get as many")
        config = config.replace(epochs=begun)
    results, mosaic = [], None
    with ExitStack() as held:
        for folder in folders:
            held.enter_context(locked(folder))
        runs = [prepare(folder, config, split, args.resume) for folder, split in zip(folders, splits)]
        for run in runs:
            run.check_data(dataset)
        left = [run for run in runs if not run.finished]
        teachers = find_teachers(left, args.runs, dataset) if config.semi == "pseudo" else [None] * len(left)
        if left and needs_mosaic(config, teachers):
            mosaic = mosaic_beside(args.runs, dataset, args.data, console)

        def taught(run: Run, teacher: Run | None) -> Unlabelled | None:
            """What a run learns from besides its own tiles."""
            tiles = ValidationTiles(dataset, mosaic)
            if teacher:
                return pseudo_labels(run, teacher, tiles, args.data, console)
            return without_labels(run, tiles, args.data) if run.config.semi == "consistency" else None

        if args.minutes and begun is None:
            from lib.budget import epochs_within

            seconds, started = 60 * args.minutes, time.perf_counter()
            unlabelled = taught(left[0], teachers[0])
            if unlabelled:
                seconds -= len(runs) * (time.perf_counter() - started)
            epochs = epochs_within(seconds, len(runs), config, splits[0], dataset, mosaic, unlabelled, console)
            runs = [replace(run, config=config.replace(epochs=epochs)) for run in runs]
        waiting = iter(teachers)
        for run in runs:
            if run.finished:
                console.line(f"{run.folder}: finished before; delete it to train it again")
                results.append(run.metrics())
            else:
                from lib.training import train_fold  # Keras takes seconds to load: only now

                boards = for_tensorboard(args.tensorboard, run, dataset, mosaic)
                results.append(train_fold(run, dataset, console, boards, mosaic, taught(run, next(waiting))))
    return list(zip(runs, results))


def _folder(split: Split, config: Config, args: argparse.Namespace) -> Path:
    return fold_folder(args.runs, config.experiment, split.fold)


def epochs_begun(folder: Path, config: Config) -> int | None:
    """The epochs of a run in an experiment's folder with such a config, so that all folds get as many; None: no run."""
    for path in sorted(folder.glob(f"fold_*/{CONFIG}")):
        other = Config.read(path, ADVICE)
        if other.replace(epochs=config.epochs) == config:
            return other.epochs
    return None


def for_tensorboard(folder: Path | None, run: Run, dataset: data.Dataset, mosaic: Mosaic | None) -> tuple:
    """The callbacks of --tensorboard for one run; none without it."""
    if folder is None:
        return ()
    from lib.watch import tensorboard

    tiles = run.split.validation
    shown = show(dataset.images[tiles], tiles, Surroundings.of(run.config, mosaic))
    name = folder / run.config.experiment / run.folder.name
    return tuple(tensorboard(name, shown, dataset.masks[tiles], run.config.predict_background))


def report(done: Sequence[tuple[Run, Metrics]], args: argparse.Namespace, console: Console) -> None:
    """The closing table and the next command."""
    experiments = list(dict.fromkeys(run.folder.parent for run, _ in done))
    rows = [
        [
            "/".join(run.folder.parts[-2 if len(experiments) > 1 else -1 :]),
            result.best_epoch,
            percent(result.mean_iou),
            *(percent(result.iou[name]) for name in CLASSES[1:]),
            percent(result.untrained_mean_iou),
            percent(result.constant_mean_iou),
        ]
        for run, result in done
        if result.iou
    ]
    if rows:
        console.line("\nvalidation, intersection over union in percent")
        console.table(["fold", "epoch", "mean IoU", *CLASSES[1:], "untrained", "one class"], rows)
    data = ["--data", args.data] if args.data else []
    console.line("\nnext: " + shlex.join(["python", "infer.py", *map(str, experiments), "--tta", *data]))
    console.result(runs=[{"folder": run.folder, **result.model_dump(exclude_none=True)} for run, result in done])


if __name__ == "__main__":
    run_main(main, memory="lower batch_size or width with --set")
