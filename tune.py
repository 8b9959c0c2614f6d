"""Searches the best settings of an experiment on one fold, and prints the command that trains them.

    python tune.py seventh --trials 40                    again after Ctrl-C or a crash: only what is missing
    python tune.py seventh --tiny --data FILE             a laptop
    python tune.py seventh --set epochs=60 batch_size=16  what is set is not searched
    python tune.py seventh --jobs 2                       two trials at a time
    python tune.py seventh --ray ADDRESS --storage URL    on the machines of a Ray cluster
    python tune.py seventh --storage URL                  on several machines, on each: they share one study

What is searched stands in lib/search.py. Writes <runs>/<study>/: the study's database and pictures,
and history and metrics of every trial, without its weights. Several processes may work on a study at once.
A URL is that of a database, such as postgresql://user@host/name; /shared/study.log does as well, in a folder that all
machines share.
"""

from __future__ import annotations

import argparse
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from lib import search
from lib.augment import Augmenter
from lib.cluster import Cluster, add_ray_option
from lib.config import Config, Name, assignment
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.experiments import make_config
from lib.files import replacing
from lib.frames import kept_in, mosaic_beside
from lib.jobs import Here, Runner, looking
from lib.records import Count, Positive
from lib.runs import Split, load_data
from lib.schema import option
from lib.workers import Worker

DATABASE = "study.db"
WARMUP = 3  # epochs, at least, before a trial may be pruned
SLICED = 6  # the most important parameters, in the slice plot


def main() -> None:
    """Reads the command line, runs what trials are missing, draws the study and prints its best command."""
    args = parse()
    console = Console(args.quiet, args.json)
    tune(make_config(args.experiment, args.tiny).override(args.set), args, console)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("experiment", help="one of train.py --list")
    parser.add_argument(
        "--trials", type=option(Positive), default=40, help="finished trials in all, by all processes; default 40"
    )
    parser.add_argument("--data", metavar="FILE", help="npz file; default: as train.py")
    parser.add_argument(
        "--fold", type=option(Count), default=0, help="the fold whose validation scores the trials; default 0"
    )
    parser.add_argument("--tiny", action="store_true", help="fewer filters and epochs: for a laptop")
    settings = "change config fields, and leave them out of the search"
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=settings)
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where the study's folder lies")
    parser.add_argument("--study", type=option(Name), metavar="NAME", help="default: EXPERIMENT-study")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help=f"any database of Optuna's, or a file that ends in .log, which needs no server, in a folder that all "
        f"machines share; default: {DATABASE} in the study's folder",
    )
    parser.add_argument(
        "--jobs", type=option(Positive), metavar="N", help="trials at a time, by so many processes; default: one, here"
    )
    add_ray_option(parser, "the processes")
    parser.add_argument("--worker", action="store_true", help="run trials and no more: what --jobs and --ray start")
    add_console_options(parser)
    return parser.parse_args()


def tune(config: Config, args: argparse.Namespace, console: Console) -> None:
    """Opens the study, brings it to `args.trials` trials, and says what is best."""
    if config.semi != "none":
        raise UserError(
            f"semi={config.semi}: a trial has no teacher; tune {config.teacher} and train with what it finds"
        )
    if args.ray and not args.storage:
        raise UserError(
            f"--ray {args.ray}: its machines do not see {DATABASE} on this disk; give --storage the URL of a database, "
            "or a file such as /shared/study.log in a folder that all share"
        )
    space = search.search_space({text.partition("=")[0] for text in args.set})
    if not space:
        raise UserError("--set: leaves no field to search; set fewer")
    dataset = load_data(args.data, config)
    split = Split.of(dataset, config, args.fold)
    # What every trial would be refused for is said before there is a study that holds this configuration
    Augmenter(dataset.images[split.train], dataset.masks[split.train], config)
    mosaic = None if config.context == "off" else mosaic_beside(args.runs, dataset, args.data, console)
    name = args.study or f"{config.experiment}-study"
    folder = args.runs / name
    folder.mkdir(parents=True, exist_ok=True)

    import optuna

    from lib.study import anywhere, open_study

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    storage = args.storage or f"sqlite:///{folder / DATABASE}"
    study = open_study(
        storage,
        name,
        search.Fingerprint.of(config, space, dataset.digest, args.fold),
        first=search.own_values(config, space),
        warmup=max(WARMUP, config.epochs // 10),
    )
    progress = Progress(study, args.trials, console)
    console.facts(
        study=f"{folder}: {progress.finished()} of {args.trials} trials finished",
        data=f"{dataset.source}, fold {args.fold}: {len(split.train)} tiles to train on, "
        f"{len(split.validation)} to validate on",
        search=", ".join(field for field in space if search.is_used(field, config)),
    )
    missing = progress.missing()
    runner = find_runner(args, missing)
    try:
        if runner:
            kept = None if mosaic is None else kept_in(args.runs, mosaic.key)  # found once, before they all look for it
            deal_out(workers(args, name, anywhere(storage), kept, missing), runner, progress, console)
        elif missing:
            from lib.tuning import Tuner  # Keras takes seconds to load: only now

            Tuner(study, config, space, dataset, split, folder, console, mosaic).run(args.trials, progress.trial_ended)
        if not args.worker:
            tell_best(study, folder, args, console)
    except optuna.exceptions.StorageInternalError as error:
        reason = str(error.__cause__).splitlines()[0]
        raise UserError(f"--storage: {reason}; once it answers, start again: the study goes on") from None


def find_runner(args: argparse.Namespace, missing: int) -> Runner | None:
    """Who deals out workers for so many trials; None where this process runs them one after the other."""
    if args.ray is not None and missing:
        return Cluster(args.ray, args.jobs)
    at_once = min(args.jobs or 1, missing)
    return Here(at_once) if at_once > 1 else None


def workers(args: argparse.Namespace, name: str, storage: str, mosaic: Path | None, missing: int) -> list[Worker]:
    """As many as are asked for, or where Ray decides how many run at a time, as could be at work."""
    first = Worker(
        1, args.experiment, name, storage, args.trials, args.fold, tuple(args.set), args.tiny, args.data, args.runs,
        needs=() if mosaic is None else (mosaic,),
    )  # fmt: skip
    return [replace(first, number=number) for number in range(1, 1 + min(args.jobs or missing, missing))]


def deal_out(jobs: list[Worker], runner: Runner, progress: Progress, console: Console) -> None:
    """Has a runner bring the study to its trials. What one worker leaves undone the others do."""
    with progress.watching():
        try:
            runner.run(jobs, console)
        except UserError as error:
            if progress.missing():
                raise
            console.error(str(error))


def tell_best(study, folder: Path, args: argparse.Namespace, console: Console) -> None:
    """Draws the study and prints its best trial and the command that trains it."""
    best = study.best_trial
    pictures = draw(study, folder)
    console.line(f"\nbest: trial {best.number}, mean IoU {best.value:.4f}; pictures: {', '.join(map(str, pictures))}")
    command = train_command(args, folder, [assignment(*item) for item in best.params.items()])
    console.line(f"next: {command}")
    trials = Progress(study, args.trials, console).finished()
    console.result(study=folder, trials=trials, best={"trial": best.number, "mean_iou": best.value}, command=command)


class Progress:
    """The line that each trial leaves in the console."""

    def __init__(self, study, trials: int, console: Console):
        self.study, self.trials, self.console = study, trials, console

    def finished(self) -> int:
        """The study's finished trials, pruned ones included."""
        return len(self._finished())

    def missing(self) -> int:
        """The trials that the study lacks."""
        return max(0, self.trials - self.finished())

    def trial_ended(self, trial) -> None:
        """Prints the trial's number, best score, length and end, the study's best, and the time."""
        from optuna.storages import RetryFailedTrialCallback

        original = RetryFailedTrialCallback.retried_trial_number(trial)
        scores = trial.intermediate_values.values()
        end = "pruned after" if trial.state.name == "PRUNED" else "complete in "
        best = self.study.best_trial
        count = sum(other.datetime_complete <= trial.datetime_complete for other in self._finished())
        self.console.line(
            f"trial {trial.number:3d}  {count:3d}/{self.trials}  mean IoU {max(scores):.4f}  "
            f"{end} {len(scores):3d} epochs  best {best.value:.4f} (trial {best.number})  "
            f"{trial.duration.total_seconds():.0f} s" + ("" if original is None else f"  trial {original} again")
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block prints the line of each trial that ends, whoever runs it."""
        from optuna.exceptions import StorageInternalError

        known = {trial.number for trial in self._finished()}

        def look() -> None:
            with suppress(StorageInternalError, OSError):  # workers say it, and how to go on
                for trial in sorted(self._finished(), key=lambda trial: trial.datetime_complete):
                    if trial.number not in known:
                        known.add(trial.number)
                        self.trial_ended(trial)

        with looking(look):
            yield

    def _finished(self) -> list:
        from lib.study import FINISHED

        return self.study.get_trials(deepcopy=False, states=FINISHED)


def draw(study, folder: Path) -> list[Path]:
    """Optuna's own pictures of the study as PNG files; those of parameters need two different scores."""
    import matplotlib
    import optuna
    from optuna.visualization import matplotlib as plots

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    name = "mean IoU"
    drawings = {"history": lambda: plots.plot_optimization_history(study, target_name=name)}
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) > 1:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        ranked = list(optuna.importance.get_param_importances(study, evaluator=evaluator))
        drawings["importances"] = lambda: plots.plot_param_importances(study, evaluator, target_name=name)
        drawings["slice"] = lambda: plots.plot_slice(study, ranked[:SLICED], target_name=name)
    paths = []
    for title, drawing in drawings.items():
        paths.append(folder / f"{title}.png")
        with plt.rc_context(), replacing(paths[-1], "wb") as stream:
            drawing()
            plt.savefig(stream, format="png", bbox_inches="tight")
            plt.close()
    return paths


def train_command(args: argparse.Namespace, folder: Path, best: list[str]) -> str:
    """The command line of train.py for the best configuration; its run lies in the study's folder."""
    options = ["--tiny"] if args.tiny else []
    options += ["--data", args.data] if args.data else []
    options += ["--fold", str(args.fold)] if args.fold else []
    return shlex.join(
        ["python", "train.py", args.experiment, *options, "--runs", str(folder), "--set", *args.set, *best]
    )


if __name__ == "__main__":
    run_main(main, memory="lower batch_size or width with --set")
