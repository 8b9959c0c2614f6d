"""From masks to a checked submission file.

python submission.py                                            masks.npz -> submission.csv, checked
python submission.py runs/demo/masks.npz --out demo.csv --zip   any masks, any name, zipped (demo.csv.zip)
python submission.py --check submission.csv --data FILE         any CSV or zip; as many tiles as FILE's test set
python submission.py --score submission.csv --truth FILE        the competition's score against known labels
python submission.py --submit -m "seventh, 5 folds, tta"        masks.npz -> zip file -> Kaggle -> its score
python submission.py --status                                   the scores of all submissions so far
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from lib import encoding
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.files import sha256
from lib.kaggle import submit as kaggle_submit
from lib.kaggle.client import Kaggle
from lib.metrics import scores
from lib.records import Origin
from lib.task import TEST_TILES

JOURNAL = Path("submissions.csv")


def encode(args: argparse.Namespace, console: Console) -> None:
    """Masks file -> submission file, checked as written."""
    wanted = encoding.count_test_tiles(args.data) if args.data else None
    masks, out, tiles, note = _write(args, args.zip, wanted, args.data)
    size, digest = os.path.getsize(out), sha256(out)
    following = _next_command(masks, out, tiles, note, args.allow_background)
    console.facts(
        masks=masks,
        **_origin(note),
        wrote=out,
        rows=f"{tiles:,}",
        bytes=f"{size:,}",
        sha256=digest,
        checked=_checked(args.allow_background),
        next=following,
    )
    console.result(
        masks=masks,
        made_by=note.model_dump(exclude_unset=True),
        path=out,
        rows=tiles,
        bytes=size,
        sha256=digest,
        next=following,
    )


def submit(args: argparse.Namespace, console: Console) -> None:
    """Masks file -> checked zip file -> Kaggle -> its score and rank."""
    if not args.message:
        raise UserError('--submit: needs a description for Kaggle and the journal; add -m "TEXT"')
    wanted = encoding.count_test_tiles(args.data) if args.data else TEST_TILES
    _, out, _, note = _write(args, True, wanted, args.data or "the competition")
    kaggle_submit.submit(Kaggle(console), Path(out), args.message, note, JOURNAL, console)


def status(args: argparse.Namespace, console: Console) -> None:
    """The scores of all submissions in the journal, as far as Kaggle has them by now."""
    if not JOURNAL.exists():
        raise UserError(f"{JOURNAL}: no submission was made from this folder yet")
    kaggle_submit.status(Kaggle(console), JOURNAL, console)


def _write(args: argparse.Namespace, zipped: bool, wanted: int | None, data: str) -> tuple[str, str, int, Origin]:
    """Encodes and checks; UserError unless `wanted` tiles. Returns masks file, file written, tiles, masks' note."""
    masks, out = args.masks or "masks.npz", args.out or "submission.csv"
    if zipped and not out.endswith(".zip"):
        out += ".zip"
    with encoding.open_masks(masks) as reader:
        if wanted not in (None, len(reader)):
            other = f"{wanted:,} test tiles in {data}"
            raise UserError(f"{masks}: {len(reader):,} masks, but {other}; run infer.py with that --data")
        note = encoding.made_by(masks)
        tiles = encoding.write(out, reader.blocks(), zipped, args.allow_background, source=masks)
    encoding.check(out, tiles, args.allow_background)
    return masks, out, tiles, note


def check(args: argparse.Namespace, console: Console) -> None:
    """Whether a submission file is as the competition wants it."""
    wanted = encoding.count_test_tiles(args.data) if args.data else None
    tiles = encoding.check(args.check, wanted, args.allow_background)
    size, digest = os.path.getsize(args.check), sha256(args.check)
    as_many = f", as many rows as test tiles in {args.data}" if args.data else ""
    console.facts(
        checked=args.check,
        rows=f"{tiles:,}",
        bytes=f"{size:,}",
        sha256=digest,
        good=_checked(args.allow_background) + as_many,
    )
    console.result(path=args.check, rows=tiles, bytes=size, sha256=digest)


def score(args: argparse.Namespace, console: Console) -> None:
    """The competition's score of a submission file, per class and mean."""
    if not args.truth:
        raise UserError("--score: needs the labels; add --truth FILE, an npz with test_masks or a training_set")
    confusion = encoding.score(args.score, args.truth)
    values = scores(confusion)
    rows = [(name, "-" if iou is None else f"{iou:.4f}") for name, iou in values["iou"].items()]
    console.table(("class", "IoU"), [*rows, ("mean", f"{values['mean_iou']:.4f}")])
    if lost := int(confusion[:, 0].sum()):
        console.line(f"{lost:,} scored pixels are predicted as background, which brings class 0 into the mean with 0")
    console.result(path=args.score, truth=args.truth, **values)


def _checked(allow_background: bool) -> str:
    return f"header, ids, columns, labels {0 if allow_background else 1}..4"


def _origin(note: Origin) -> dict[str, str]:
    return {"made_by": ", ".join(note.runs)} if note.runs else {}


def _next_command(masks: str, out: str, tiles: int, note: Origin, allow_background: bool) -> str:
    """The command that comes next: submit the full test set, score any other."""
    if tiles == TEST_TILES:
        background = ["--allow-background"] if allow_background else []
        return shlex.join(["python", "submission.py", masks, *background, "--submit", "-m", "MESSAGE"])
    truth = note.data.source if note.data and os.path.isfile(note.data.source) else "FILE"
    return shlex.join(["python", "submission.py", "--score", out, "--truth", truth])


# The option that asks for an action, what does it, and the other options it reads
ACTIONS = {
    None: (encode, {"masks", "out", "zip", "data", "allow_background"}),
    "check": (check, {"data", "allow_background"}),
    "score": (score, {"truth"}),
    "submit": (submit, {"masks", "out", "data", "allow_background", "message"}),
    "status": (status, set()),
}


def main() -> None:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("masks", nargs="?", help="what infer.py wrote (default: masks.npz)")
    parser.add_argument("--out", metavar="FILE", help="where to write (default: submission.csv)")
    parser.add_argument("--zip", action="store_true", help="write it zipped, and .zip behind the name")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--check", metavar="FILE", help="check a submission file, plain or zipped, instead")
    other.add_argument("--score", metavar="FILE", help="score a submission file, plain or zipped, instead")
    other.add_argument("--submit", action="store_const", const=True, help="write it zipped and submit it to Kaggle")
    other.add_argument("--status", action="store_const", const=True, help="show the scores of all submissions so far")
    parser.add_argument("-m", "--message", metavar="TEXT", help="with --submit: the submission's description")
    parser.add_argument("--data", metavar="FILE", help="with masks or --check: the npz whose test set it must match")
    parser.add_argument("--truth", metavar="FILE", help="with --score: an npz with test_masks, or else a training_set")
    parser.add_argument("--allow-background", action="store_true", help="accept predicted background (class 0)")
    add_console_options(parser)
    args = parser.parse_args()

    name = next((name for name in ACTIONS if name and getattr(args, name) is not None), None)
    action, reads = ACTIONS[name]
    for option in set().union(*(options for _, options in ACTIONS.values())) - reads:
        if getattr(args, option):
            spelled = option if option == "masks" else "--" + option.replace("_", "-")
            owner = next(owner for owner, (_, options) in ACTIONS.items() if option in options)
            raise UserError(f"{spelled}: not used {f'with --{name}' if name else f'without --{owner}'}; leave it out")
    action(args, Console(args.quiet, args.json))


if __name__ == "__main__":
    run_main(main)
