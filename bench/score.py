"""How long until trainings of one system score what those of another ended with.

    python train.py best --tiny --fold all --set epochs=3 && python train.py seventh --tiny --fold all
    python -m bench.score best published seventh

Reads finished runs. Counted are, of each fold that all of them have, the seconds of the epochs until the mean IoU of
its validation tiles, without views and neighbours, first reached the best of the last-named system's; where it never
did, all of them, and the fold is told as missed. Train them on one machine, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.harness import Comparison, Goal, Took, machine, show
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.runs import Run, find_runs

SHARE = 0.2  # of the last system's time that the first should take


def main() -> None:
    """The command line."""
    parser = ArgumentParser(__doc__, prog="python -m bench.score")
    parser.add_argument("system", nargs="+", help="experiment folders; the last one's score is to be reached")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where the runs lie")
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)
    if len(args.system) < 2:
        raise UserError(f"{args.system[0]}: name another system, whose score it is to reach")
    found = compare({name: find_runs([name], args.runs) for name in args.system})
    show([found], console)
    console.result(
        machine=machine(),
        seconds={name: took.seconds for name, took in found.took.items()},
        goals={goal.text: goal.value for goal in found.goals},
    )


def compare(systems: dict[str, list[Run]]) -> Comparison:
    """The systems' seconds, over the folds that all have. Raises UserError where there is none."""
    folds = set.intersection(*({validated(run) for run in runs} for runs in systems.values()))
    if not folds:
        raise UserError(f"{', '.join(systems)}: no fold was trained by all of them")
    name, last = list(systems.items())[-1]
    wanted = {validated(run): max(epoch["mean_iou"] for epoch in run.history()) for run in last}
    took, goals = {}, []
    for system, runs in systems.items():
        here = [run for run in runs if validated(run) in folds]
        ends = [(*reached(run.history(), wanted[validated(run)]), wanted[validated(run)]) for run in here]
        took[system] = Took(sum(seconds for seconds, *_ in ends))
        if missed := sum(highest < score for _, highest, score in ends):
            goals.append(Goal(f"{system}: folds that did not reach it", missed, most=0))
    first = next(iter(systems))
    goals.append(Goal(f"{first}: of {name}'s time", took[first].seconds / took[name].seconds, most=SHARE))
    return Comparison(f"until {name}'s score, {len(folds)} folds", took, goals)


def validated(run: Run) -> tuple[str, bytes]:
    """The data and the tiles that a run's score is of: its fold, whoever drew it."""
    return run.split.digest, run.split.validation.tobytes()


def reached(history: Sequence[dict[str, float]], score: float) -> tuple[float, float]:
    """Seconds until an epoch of a training scored so much, or of all where none did; and the best score until then."""
    seconds, highest = 0.0, 0.0
    for epoch in history:
        seconds, highest = seconds + epoch["seconds"], max(highest, epoch["mean_iou"])
        if highest >= score:
            break
    return seconds, highest


if __name__ == "__main__":
    run_main(main)
