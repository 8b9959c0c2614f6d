"""What the scripts print: one look for plain lines, tables, progress, JSON and errors."""

from __future__ import annotations

import argparse
import io
import itertools
import json
import logging
import os
import platform
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

USER_ERROR_EXIT = 2
STDOUT = "standard output"  # its name in messages
DEVICE_MEMORY = ("ResourceExhaustedError", "OutOfMemoryError")  # TensorFlow's and PyTorch's, which are not loaded here


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
            _print(text)

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

    def error(self, text: str) -> None:
        """One line on standard error, for what failed while the script goes on; printed whatever is wanted."""
        print(_error_line(text), file=sys.stderr)

    def result(self, **values: object) -> None:
        """The machine-readable end of a script: printed with --json only."""
        if self.json:
            _print(json.dumps(values, default=str))

    @staticmethod
    def _bold(text: str) -> str:
        plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR")
        return text if plain else f"\033[1m{text}\033[0m"


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, with a script's docstring for its description; a wrong option is a UserError, in one line."""

    def __init__(self, description: str | None, prog: str | None = None):
        super().__init__(prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; see --help")


def add_console_options(parser) -> None:
    """Adds --quiet and --json to an argparse parser; `Console(args.quiet, args.json)` reads them."""
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, nothing else")


class Terminated(KeyboardInterrupt):
    """SIGTERM, as from `kill`, a scheduler or a container that ends, or SIGHUP, of a terminal that is closed: whatever
    Ctrl-C leaves in order, these do too.
    """

    def __init__(self, number: int = signal.SIGTERM):
        super().__init__(number)
        self.number = number


def run_main(main: Callable[[], int | None], memory: str = "free some memory") -> None:
    """Runs a script's main and ends the process.

    UserError and whatever the system says of a file (a full or read-only disk, a quota, a forbidden path, a folder, a
    name too long) become one line on stderr that names it, and exit code 2; so does memory that does not suffice.
    Ctrl-C becomes 130, SIGTERM 143, SIGHUP 129; a reader that closed the pipe (`| head`) ends quietly. Anything else is
    a defect and keeps its traceback. What was added to the exception by `add_note` is printed last.

    Args:
        memory: what to do when memory does not suffice, such as which option to lower.
    """
    _open_closed_streams()
    prepare_tensorflow()
    # A signal that is ignored stays so: `nohup` has its reasons
    caught = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    earlier = {number: signal.signal(number, _terminate) for number in caught}
    try:
        code = _exit_code(main, memory)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    sys.exit(code)


def prepare_tensorflow() -> None:
    """Sets what TensorFlow reads when it is imported, where nobody has set it otherwise."""
    # Without its own start-up lines and hints
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3":
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # It takes oneDNN's convolutions by itself only on processors with AVX512-VNNI; they are faster on others, too:
    # bench/README.md
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def _exit_code(main: Callable[[], int | None], memory: str) -> int:
    try:
        _check_arguments()
        try:
            code = main() or 0
        finally:  # argparse leaves its help in the buffer and exits
            _print(end="")
        return code
    except UserError as error:
        return _fail(str(error), error)
    except MemoryError as error:
        return _fail(f"not enough memory{f' ({error})' if str(error) else ''}; {memory}", error)
    except OSError as error:
        if error.filename == STDOUT:
            # What is left in the buffer would fail once more when the process ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):
                return 128 + signal.SIGPIPE
        return _fail(f"{error.filename or sys.argv[0]}: {error.strerror or error}", error)
    except KeyboardInterrupt as error:
        return _interrupted(error)
    except Exception as error:
        if interruption := _behind(error):
            return _interrupted(interruption)
        if isinstance(error, ValueError) and "embedded null" in str(error):
            return _fail(f"{sys.argv[0]}: was given a path with a NUL byte in it; rename the file", error)
        if type(error).__name__ not in DEVICE_MEMORY and not str(error).startswith("RESOURCE_EXHAUSTED"):  # JAX's
            raise
        return _fail(f"not enough memory on the device ({str(error)[:200]}); {memory}", error)


def _interrupted(error: KeyboardInterrupt) -> int:
    number = error.number if isinstance(error, Terminated) else signal.SIGINT
    words = {int(signal.SIGTERM): "terminated", int(signal.SIGHUP): "the terminal was closed"}
    _tell(words.get(number, "interrupted"), error)
    return 128 + number


def _behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The signal that an exception was raised on: TensorFlow here and there catches everything, and raises another."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _terminate(number: int, _: object) -> None:
    # Raising from a signal handler may leave any line half done. That is what Ctrl-C does, too, and what every file,
    # run and study here is made to survive; so both take the same way. Should the exception be lost, in a destructor
    # say, or the clean-up hang, a second signal ends the process at once.
    signal.signal(number, signal.SIG_DFL)
    raise Terminated(number)


def _open_closed_streams() -> None:
    """Makes up for streams that the caller closed (`>&-`), and prints what a stream cannot encode escaped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 -- as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _check_arguments() -> None:
    """Raises UserError for bytes that no output could name: JSON, HTML, CSV and the terminal are UTF-8.

    And for empty text, as of a shell's variable that is not set: of an empty path the folder at hand would be made.
    """
    for before, argument in itertools.pairwise(sys.argv):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UserError(f"{argument}: is not UTF-8; rename it") from None
        option = argument.startswith("--") and argument.endswith("=")
        if option or not argument:
            name = argument.removesuffix("=") or (before if before.startswith("-") else "an argument")
            raise UserError(f"{name}: is empty; give it a value or leave it out")


def _print(text: str = "", end: str = "\n") -> None:
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        error.filename = STDOUT
        raise


def _error_line(message: str) -> str:
    """One line; a message may quote what a server or a file says, and a terminal would obey some of it."""
    line = "error: " + " ".join(message.split())
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in line)


def _fail(message: str, error: BaseException) -> int:
    _tell(_error_line(message), error)
    return USER_ERROR_EXIT


def _tell(line: str, error: BaseException) -> None:
    """The line of an error, and what was noted on it, such as the command that goes on."""
    with suppress(OSError):  # of a terminal that is gone
        print(line, *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
