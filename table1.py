"""Repeats the report's Table 1: every experiment under one budget, on the same folds and seeds.

    python table1.py                                  a laptop's setting, on the default data
    python table1.py --setting gpu --data FILE        full width
    make table1                                       the same as the first

Goes on where it stopped: finished runs are not trained again. Writes <runs>/table1-<setting>/table1.md.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from lib.children import Children
from lib.config import Seed
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.experiments import EXPERIMENTS, make_config
from lib.files import replacing
from lib.jobs import Here, Training, watching
from lib.records import Environment, Positive, Validation
from lib.runs import ADVICE, ENVIRONMENT, VALIDATION, find_runs
from lib.schema import option

# Table 1 of the report: validation and inference (leaderboard) mean IoU in percent
REPORTED = {
    "first": (43.92, 42.38),
    "second": (48.04, 45.63),
    "third": (48.05, 47.03),
    "fourth": (56.82, 50.47),
    "fifth": (63.29, 69.70),
    "sixth": (64.01, 68.53),
    "seventh": (64.90, 69.91),
}
LADDER = ("first", "second", "third", "fourth", "fourth_ignoring", "fifth_counting", "fifth", "sixth", "seventh")


@dataclass(frozen=True)
class Setting:
    """What all experiments of a table have in common."""

    tiny: bool
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]


SETTINGS = {
    "laptop": Setting(True, ("epochs=4", "plateau_patience=4", "width=4"), (0, 1)),
    "gpu": Setting(False, ("epochs=40", "plateau_patience=8", "precision=mixed_float16"), (0, 1)),
}


def main() -> None:
    """Trains what is missing and writes the table."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--setting", choices=SETTINGS, default="laptop")
    parser.add_argument(
        "--experiments", nargs="+", default=list(LADDER), metavar="NAME", help="experiments; default: the report's"
    )
    parser.add_argument("--data", metavar="FILE", help="npz file; default: as train.py")
    parser.add_argument("--fold", default="0", help="folds such as 0 or 0,2, or all; default 0")
    parser.add_argument("--seeds", nargs="+", type=option(Seed), help="default: the setting's")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="for all experiments alike"
    )
    parser.add_argument("--jobs", type=option(Positive), default=1, help="trainings at a time")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where the runs lie")
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)

    setting = SETTINGS[args.setting]
    overrides = list({item.partition("=")[0]: item for item in (*setting.overrides, *args.set)}.values())
    for name in args.experiments:
        config = make_config(name).override(overrides)  # a wrong name or override fails now, not after hours
    seeds = args.seeds or list(setting.seeds)
    folder = args.runs / f"table1-{args.setting}"
    pairs = [(name, seed) for name in args.experiments for seed in seeds]
    jobs = [
        Training(name, fold, (f"seed={seed}", *overrides), setting.tiny, data=args.data, runs=folder / f"seed_{seed}")
        for name, seed in pairs
        for fold in config.chosen_folds(args.fold)
    ]
    told = [*(["--tiny"] if setting.tiny else []), *overrides]
    console.facts(table=folder / "table1.md", trainings=len(jobs), settings=" ".join(told))
    with watching(jobs, console):
        Here(args.jobs).run(jobs, console)
    children = Children(args.jobs)

    def score(pair: tuple[str, int]) -> dict:
        name, seed = pair
        experiment = folder / f"seed_{seed}" / name
        data = ["--data", args.data] if args.data else []
        children.run("infer.py", str(experiment), *data, "--tta", "--score-only")
        result = summary(experiment)
        console.line(f"{name} seed {seed}: {result['plain']:.2f}, with --tta {result['tta']:.2f}")
        return result

    results = children.map(score, pairs)
    by_experiment: dict[str, list[dict]] = {}
    for (name, _), result in zip(pairs, results):
        by_experiment.setdefault(name, []).append(result)
    text = markdown(by_experiment, seeds, args.fold, told)
    with replacing(folder / "table1.md") as stream:
        stream.write(text)
    console.line("\n" + text)
    console.result(table=folder / "table1.md", experiments=by_experiment)


def summary(experiment: Path) -> dict:
    """What the table needs of one experiment and seed; scores in percent, over all trained folds."""
    validation = Validation.read(experiment / VALIDATION, "delete it")
    runs = find_runs([str(experiment)], experiment.parent)
    folds = [run.metrics() for run in runs]
    environment = Environment.read(runs[0].folder / ENVIRONMENT, ADVICE)
    if validation.plain is None or validation.tta is None:
        raise UserError(f"{experiment}: not scored with and without --tta; delete its {VALIDATION}")
    return {
        "plain": 100 * validation.plain.mean_iou,
        "tta": 100 * validation.tta.mean_iou,
        "big_rock": 100 * (validation.plain.iou["big rock"] or 0.0),
        "tiles": validation.tiles,
        "parameters": folds[0].parameters,
        "epoch_seconds": sum(fold.seconds for fold in folds) / sum(fold.epochs for fold in folds),
        "device": environment.device,
        "data": f"{Path(runs[0].split.source).name} (digest {runs[0].split.digest[:12]})",
    }


def markdown(by_experiment: dict[str, list[dict]], seeds: list[int], fold: str, settings: list[str]) -> str:
    """The table: report's scores beside ours, mean and standard deviation over seeds."""
    one = next(iter(by_experiment.values()))[0]
    lines = [
        "| experiment | change | report: val. / inference | validation | with `--tta` | big rock | parameters "
        "| s per epoch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, results in by_experiment.items():
        report = " / ".join(f"{score:.2f}" for score in REPORTED[name]) if name in REPORTED else "-"
        cells = [_spread([result[key] for result in results]) for key in ("plain", "tta", "big_rock")]
        seconds = statistics.mean(result["epoch_seconds"] for result in results)
        lines.append(
            f"| {name} | {EXPERIMENTS[name].summary} | {report} | {' | '.join(cells)} "
            f"| {results[0]['parameters'] / 1e6:.2f} M | {seconds:.1f} |"
        )
    lines += [
        "",
        f"Mean IoU in percent on fold {fold} ({one['tiles']} tiles), mean ± standard deviation over seeds "
        f"{_list(seeds)}; "
        f"big rock: its IoU without `--tta`. Data: {one['data']}. Budget: `{' '.join(settings)}`. "
        f"Hardware: {one['device']}. The report's figures are of the competition's own file and leaderboard: "
        "compare steps, not levels.",
    ]
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


if __name__ == "__main__":
    run_main(main, memory="lower --jobs, or batch_size or width with --set")
