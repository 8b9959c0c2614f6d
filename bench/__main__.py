"""Times each stage beside an alternative and against its limit, and writes one table.

    python -m bench                          all stages, at the competition's size -> runs/bench/
    python -m bench load encode --rounds 5   some of them

Each stage is a process of its own, `python -m bench.STAGE`, so that none leaves threads or memory to the next. Run it
on a quiet machine: how busy it was stands in the result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bench.harness import AIMS, TIMES, Comparison, add_size, aims, machine, read, said, show, times
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.files import replacing

STAGES = ("load", "encode", "augment", "step", "infer", "start")
RESULT, TABLE = "bench.json", "bench.md"


def main() -> None:
    """The command line."""
    parser = ArgumentParser(__doc__, prog="python -m bench")
    parser.add_argument("stages", nargs="*", default=list(STAGES), metavar="STAGE", help=f"of {', '.join(STAGES)}")
    add_size(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), metavar="DIR", help="default: runs/bench")
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)
    if unknown := [name for name in args.stages if name not in STAGES]:
        raise UserError(f"{unknown[0]}: no such stage; there are {', '.join(STAGES)}")
    busy = machine()
    comparisons: list[Comparison] = []
    with console.progress(len(args.stages), "stages", "stage") as bar:
        for name in args.stages:
            size = ("--scale", str(args.scale), "--rounds", str(args.rounds))
            begun = time.perf_counter()
            comparisons += read(said("-m", f"bench.{name}", "--json", *size))
            console.line(f"{name}: measured in {time.perf_counter() - begun:.0f} s")
            bar.update()
    console.line()
    show(comparisons, console)
    args.out.mkdir(parents=True, exist_ok=True)
    facts = busy | {"scale": args.scale, "rounds": args.rounds}
    found = dict(machine=facts, comparisons=[asdict(one) for one in comparisons])
    with replacing(args.out / TABLE) as stream:
        stream.write(markdown(comparisons, facts))
    with replacing(args.out / RESULT) as stream:
        json.dump(found, stream, indent=1)
    console.line(f"\n{args.out / TABLE}, {args.out / RESULT}: written")
    console.result(**found)


def markdown(comparisons: Sequence[Comparison], facts: Mapping[str, object]) -> str:
    """Both tables and what they depend on, as bench/README.md has them."""
    told = ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in facts.items()
    )
    lines = [f"Measured by `python -m bench`: {told}.", ""]
    for header, cells in ((AIMS, aims), (TIMES, times)):
        lines += ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
        lines += ["| " + " | ".join(line) + " |" for one in comparisons for line in cells(one)]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
