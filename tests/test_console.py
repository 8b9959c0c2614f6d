"""One look for all scripts: aligned, plain where nobody watches, silent or JSON when asked, one line for an error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lib.console import Console, UserError, run_main

ROOT = Path(__file__).resolve().parent.parent


def test_facts_and_tables_are_aligned(capsys):
    console = Console()
    console.facts(data="tiles", device_name="cpu")
    console.table(["fold", "mean IoU"], [["fold_0", "7.10"], ["all", "57.20"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["data         tiles", "device name  cpu"]
    assert lines[2:] == ["fold    mean IoU", "fold_0      7.10", "all        57.20"]


@pytest.mark.parametrize(
    "terminal, no_color, bold", [(True, None, True), (True, "1", False), (True, "", True), (False, None, False)]
)
def test_colour_only_on_a_terminal_and_never_with_no_color(capsys, monkeypatch, terminal, no_color, bold):
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    Console().table(["fold"], [["fold_0"]])
    assert ("\033[1m" in capsys.readouterr().out) == bold


def test_quiet_prints_nothing_and_json_one_object(capsys):
    for console in (Console(quiet=True), Console(json=True)):
        console.line("text")
        console.facts(data="tiles")
        console.table(["fold"], [["fold_0"]])
        with console.progress(3, "tiles", "tile") as bar:
            bar.update(3)
        console.result(score=0.5)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"score": 0.5} and printed.err == ""


@pytest.mark.parametrize(
    "error, code, text",
    [
        (UserError("data.npz: no such\nfile; name another"), 2, "error: data.npz: no such file; name another\n"),
        (OSError(28, "No space left on device", "masks.npz"), 2, "error: masks.npz: No space left on device; "),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_of_the_user_are_one_line(capsys, error, code, text):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_main(fail)
    printed = capsys.readouterr().err
    assert ended.value.code == code and printed.startswith(text) and printed.count("\n") == 1


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 // 0)


def test_a_reader_that_leaves_is_no_error():
    program = "from lib.console import *; run_main(lambda: [Console().line('x' * 1000) for _ in range(10000)] and 0)"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141
    process.stderr.close()
