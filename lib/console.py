"""What the scripts print: one look for plain lines, tables, progress, JSON and errors."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

INTERRUPTED_EXIT = 130  # what a shell reports for a command ended by Ctrl-C
USER_ERROR_EXIT = 2


class UserError(Exception):
    """Bad input. The message is one line: which file or option, what is wrong, what to do. Exit code 2."""


@dataclass(frozen=True)
class Console:
    """Where a script speaks. `quiet` drops everything but errors; `json` prints one JSON object at the end instead."""

    quiet: bool = False
    json: bool = False

    @property
    def silent(self) -> bool:
        """True when neither lines nor progress are wanted."""
        return self.quiet or self.json

    def line(self, text: str = "") -> None:
        """One plain line."""
        if not self.silent:
            print(text, flush=True)

    def facts(self, **facts: object) -> None:
        """`name  value` lines with aligned values: what will be done."""
        width = max(map(len, facts), default=0)
        for name, value in facts.items():
            self.line(f"{name.replace('_', ' '):<{width}}  {value}")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table: first column left-aligned, the others right-aligned."""
        cells = [[str(cell) for cell in row] for row in [header, *rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
        for number, row in enumerate(cells):
            text = "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths)))
            self.line(self._bold(text) if number == 0 else text)

    def progress(self, total: int, title: str, unit: str):
        """A tqdm bar with rate and time left on a terminal; nothing otherwise, so that logs stay readable."""
        from tqdm import tqdm

        hidden = self.silent or not sys.stderr.isatty()
        return tqdm(total=total, desc=title, unit=unit, disable=hidden, leave=False, dynamic_ncols=True)

    def result(self, **values: object) -> None:
        """The machine-readable end of a script: printed with --json only."""
        if self.json:
            print(json.dumps(values, default=str), flush=True)

    @staticmethod
    def _bold(text: str) -> str:
        plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR")
        return text if plain else f"\033[1m{text}\033[0m"


def add_console_options(parser) -> None:
    """Adds --quiet and --json to an argparse parser; `Console(args.quiet, args.json)` reads them."""
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, nothing else")


def run_main(main: Callable[[], int | None]) -> None:
    """Runs a script's main and ends the process.

    UserError, a full disk or a forbidden path become one line on stderr and exit code 2; Ctrl-C becomes 130; a reader
    that closed the pipe (`| head`) ends quietly. Anything else is a defect and keeps its traceback.
    """
    # TensorFlow's own start-up lines and hints, unless somebody asked for them
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3":
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        code = main() or 0
    except UserError as error:
        code = _fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except OSError as error:
        if error.strerror is None:
            raise
        code = _fail(f"{error.filename or 'file system'}: {error.strerror}; nothing was overwritten")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED_EXIT
    sys.exit(code)


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return USER_ERROR_EXIT
