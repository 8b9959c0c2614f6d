"""One look for all scripts: aligned, plain where nobody watches, silent or JSON when asked, one line for an error."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lib.console import Console, Terminated, UserError, prepare_tensorflow, run_main

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
        (OSError(errno.ENOSPC, "No space left", "masks.npz"), 2, "error: masks.npz: No space left\n"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", b"a.csv"), 2, "error: b'a.csv': Disk quota exceeded\n"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", Path("runs")), 2, "error: runs: Is a directory\n"),
        (OSError(errno.EIO, "Input/output error"), 2, f"error: {sys.argv[0]}: Input/output error\n"),
        (OSError("no errno"), 2, f"error: {sys.argv[0]}: no errno\n"),
        (ValueError("embedded null byte"), 2, f"error: {sys.argv[0]}: was given a path with a NUL byte"),
        (
            MemoryError("Unable to allocate 9 TiB"),
            2,
            "error: not enough memory (Unable to allocate 9 TiB); lower --it\n",
        ),
        (MemoryError(), 2, "error: not enough memory; lower --it\n"),
        (type("ResourceExhaustedError", (Exception,), {})("OOM"), 2, "error: not enough memory on the device (OOM); "),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out"),
            2,
            "error: not enough memory on the device (RESOURCE_EXHAUSTED: Out); ",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (Terminated(), 143, "terminated\n"),
    ],
    ids=repr,
)
def test_errors_of_the_user_are_one_line(capsys, error, code, text):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        run_main(fail, memory="lower --it")
    printed = capsys.readouterr().err
    assert ended.value.code == code and printed.startswith(text) and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("stop", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (Terminated(), 143, "terminated\n"),
        (Terminated(signal.SIGHUP), 129, "the terminal was closed\n"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("made", [TypeError("no maximum of int32"), ValueError("no graph")], ids=repr)
def test_a_signal_that_a_library_made_another_error_of_ends_as_the_signal_does(capsys, made, stop, code, text):
    def fail():
        try:
            raise stop
        except BaseException:  # as `except:` in TensorFlow's DType.max
            raise made from None

    with pytest.raises(SystemExit) as ended:
        run_main(fail)
    assert ended.value.code == code and capsys.readouterr().err == text


@pytest.mark.parametrize("error", [ZeroDivisionError(), ValueError("a defect"), RuntimeError("ResourceExhaustedError")])
def test_a_defect_keeps_its_traceback(error):
    def fail():
        raise error

    with pytest.raises(type(error)):
        run_main(fail)


def script(body: str, redirections: str = "", **options) -> subprocess.Popen:
    """Starts a script with this main in a shell, with its streams redirected so."""
    program = f"from lib.console import *\ndef main():\n    {body}\nrun_main(main)"
    command = ["sh", "-c", f'exec "$0" "$@" {redirections}', sys.executable, "-c", program]
    options.setdefault("env", {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"})
    streams = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen(command, cwd=ROOT, **{**streams, **options})


HELP = "import argparse; argparse.ArgumentParser(usage='text').parse_args(['--help'])"


@pytest.mark.parametrize("body", ["for _ in range(10000): Console().line('x' * 1000)", HELP])
def test_a_reader_that_leaves_is_no_error(body):
    with script(f"import sys; sys.stdin.read(); {body}" if body == HELP else body) as process:
        if body != HELP:
            process.stdout.readline()
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b"" and process.wait() == 141


@pytest.mark.parametrize(
    "body", ["Console().line('text')", "Console(json=True).result(score=1)", "print('text')", HELP]
)
def test_a_full_disk_behind_stdout_is_named(body):
    with script(body, "> /dev/full") as process:
        assert process.stderr.read() == b"error: standard output: No space left on device\n"
        assert process.wait() == 2


def test_streams_that_the_caller_closed(tmp_path):
    body = (
        "import sys; out = open('/dev/null', 'w'); Console().table(['a'], [['b']]); Console().progress(1, 'a', 'b')\n"
        "    print('text'); print('text', file=sys.stderr)\n"
        f"    open({str(tmp_path / 'numbers')!r}, 'w').write(str(out.fileno()))"
    )
    with script(body, ">&- 2>&-") as process:
        assert process.wait() == 0
    assert int((tmp_path / "numbers").read_text()) > 2  # no file takes the place of stdout


def test_what_the_terminal_cannot_show_is_escaped():
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    with script("Console().line('1 \u00b1 2')", env=environment) as process:
        assert process.communicate() == (b"1 \\xb1 2\n", b"")


def test_an_argument_that_is_not_utf_8_is_refused_first():
    done = subprocess.run([sys.executable, "train.py", "seventh", "--runs", b"r\xffns"], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"error: r\\udcffns: is not UTF-8; rename it\n"


def test_what_was_noted_on_an_error_is_printed_last():
    with script("import os; e = UserError('a\\x1b[2Jb'); e.add_note('to go on: x'); raise e") as process:
        assert process.stderr.read() == b"error: a\\x1b[2Jb\nto go on: x\n" and process.wait() == 2


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_ends_like_ctrl_c_unless_that_is_ignored(ignored):
    body = (
        "import signal, sys\n"
        "    try: print('begun', flush=True); sys.stdin.read()\n"
        "    except KeyboardInterrupt: print('in order', flush=True); raise"
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with script(body) as process:
            assert process.stdout.readline() == b"begun\n"
            process.send_signal(signal.SIGHUP)
            process.stdin.close()
            told = process.stdout.read(), process.stderr.read(), process.wait()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert told == (b"", b"", 0) if ignored else told == (b"in order\n", b"the terminal was closed\n", 129)


def test_sigterm_ends_like_ctrl_c_and_the_second_one_at_once():
    body = (
        "import sys\n"
        "    try: print('begun', flush=True); sys.stdin.read()\n"
        "    except KeyboardInterrupt: print('in order', flush=True); sys.stdin.read(); raise"
    )
    with script(body) as process:
        assert process.stdout.readline() == b"begun\n"
        process.terminate()
        assert process.stdout.readline() == b"in order\n"
        process.stdin.close()
        assert process.stderr.read() == b"terminated\n" and process.wait() == 143
    with script(body) as process:
        assert process.stdout.readline() == b"begun\n"
        process.terminate()
        assert process.stdout.readline() == b"in order\n"
        process.terminate()
        assert process.wait() == -signal.SIGTERM


@pytest.mark.parametrize(
    ("processor", "before", "after"),
    [("x86_64", None, "1"), ("AMD64", None, "1"), ("x86_64", "0", "0"), ("arm64", None, None)],
)
def test_tensorflow_takes_onednn_unless_told_otherwise(processor, before, after, monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "")  # so that it is put back
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    if before:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", before)
    monkeypatch.setattr("platform.machine", lambda: processor)
    prepare_tensorflow()
    assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == after
