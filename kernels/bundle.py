"""Packs the project into one kernel, ready to upload.

    python kernels/bundle.py seventh --fold all
    kaggle kernels push -p kernels/build

kernels/push.py does this and the rest: it uploads, waits and brings the run home.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lib.console import ArgumentParser, Console, add_console_options, run_main
from lib.kaggle.client import Kaggle
from lib.kaggle.kernel import HOURS, Job, Kernel, add_job_options


def main() -> None:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("experiment", nargs="?", default="seventh", help="one of `train.py --list` (default: seventh)")
    add_job_options(parser)
    parser.add_argument("--user", help="your name on Kaggle; default: asked of the Kaggle client")
    parser.add_argument("--out", type=Path, default=Path("kernels/build"), metavar="DIR", help="default: kernels/build")
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)
    job = Job.asked(args.experiment, args.fold, args.tiny, args.set, args.cpu, args.hours or HOURS)
    kernel = Kernel.build(job, args.user or Kaggle(console).username, args.out)
    size = sum(path.stat().st_size for path in args.out.glob("kernel*"))
    following = shlex.join(["kaggle", "kernels", "push", "-p", str(args.out)])
    console.facts(kernel=kernel.name, bundle=kernel.bundle, bytes=f"{size:,}", next=following)
    console.result(kernel=kernel.name, bundle=kernel.bundle, folder=args.out, bytes=size, next=following)


if __name__ == "__main__":
    run_main(main)
