"""Outputs are whole or not there: many writers at once, full disks, links, processes that are killed."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from lib import encoding, files
from lib.console import UserError
from lib.files import ABANDONED, atomic_path, naming, replacing, sha256, writable


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path, text) -> None:
    with replacing(path) as stream:
        stream.write(text)


def test_a_file_is_replaced_whole_and_alone(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write(path, "older")
    with replacing(path) as stream:
        stream.write("newer")
        stream.flush()
        assert path.read_text() == "older"
    assert path.read_text() == "newer" and names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError(errno.ENOSPC, "full")])
def test_a_failed_write_leaves_the_older_file_alone(tmp_path, error):
    write(tmp_path / "a.txt", "older")
    with pytest.raises(error if isinstance(error, type) else OSError), replacing(tmp_path / "a.txt") as stream:
        stream.write("newer")
        raise error
    assert (tmp_path / "a.txt").read_text() == "older" and names(tmp_path) == ["a.txt"]


def test_a_file_may_be_read_by_those_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "a.txt", "")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_folder_is_replaced_whole(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").touch()
    with atomic_path(tmp_path / "run") as own:
        own.mkdir()
        (own / "new").touch()
        assert names(tmp_path / "run") == ["old"]
    assert names(tmp_path) == ["run"] and names(tmp_path / "run") == ["new"]


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "a.txt"
    link.symlink_to("disk/b.txt")
    for text in ("first", "second"):  # a link that leads nowhere yet, and one to a file
        write(link, text)
        assert link.is_symlink() and (tmp_path / "disk" / "b.txt").read_text() == text
    assert names(tmp_path / "disk") == ["b.txt"]


def test_writers_at_once_do_not_disturb_each_other(tmp_path):
    with replacing(tmp_path / "a.txt") as first, replacing(tmp_path / "a.txt") as second:
        first.write("first")
        second.write("second")
    assert (tmp_path / "a.txt").read_text() == "first"  # it ended last
    assert names(tmp_path) == ["a.txt"]


def test_processes_that_write_one_archive(tmp_path):
    """Each writes other masks several times, all at once: what lies there is always one of theirs, whole."""
    out = tmp_path / "submission.csv.zip"
    writers, wanted = [], set()
    for label in (1, 2, 3, 4):
        masks = np.full((40, 64, 128), label, np.uint8)
        np.savez(tmp_path / f"{label}.npz", masks=masks)
        encoding.write(tmp_path / "alone.zip", [masks], zipped=True)
        wanted.add(sha256(tmp_path / "alone.zip"))
        program = (
            "import runpy, sys\n"
            f"sys.argv = ['submission.py', {str(tmp_path / f'{label}.npz')!r}, '--out', {str(out)!r}, '--zip']\n"
            "for _ in range(5):\n"
            "    try: runpy.run_path('submission.py', run_name='__main__')\n"
            "    except SystemExit as end: assert end.code == 0\n"
        )
        command = [sys.executable, "-c", program]
        writers.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if out.exists():
            seen.add(sha256(out))
    assert [(writer.wait(), writer.stderr.read()) for writer in writers] == [(0, b"")] * 4
    assert seen | {sha256(out)} <= wanted
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
    assert not list(tmp_path.glob("*.partial"))


def test_what_a_killed_process_left_goes_after_a_day(tmp_path):
    path = tmp_path / "a.txt"
    program = (
        f"import os; from lib.files import *\nwith replacing({str(path)!r}): os.kill(os.getpid(), {signal.SIGKILL})"
    )
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == -signal.SIGKILL
    fresh, old = sorted(tmp_path.glob("a.txt.*.partial"))
    long_ago = time.time() - ABANDONED - 60
    for left in (old, *old.iterdir()):
        os.utime(left, (long_ago, long_ago))
    other = tmp_path / "b.txt.0.partial"  # not of this file
    other.mkdir()
    os.utime(other, (long_ago, long_ago))
    write(path, "newer")
    assert names(tmp_path) == ["a.txt", fresh.name, other.name]


@pytest.mark.parametrize("thing", ["folder", "/dev/null"])
def test_only_files_are_replaced_by_files(tmp_path, thing):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"{thing}: is no regular file"), replacing(tmp_path / thing):
        pytest.fail("began to write")
    assert names(tmp_path) == ["folder"]


def _mkdir(path, *_):
    raise OSError(errno.EROFS, "Read-only file system", str(path))


def _replace(own, target):
    raise OSError(errno.EDQUOT, "Disk quota exceeded", str(own), None, str(target))


def _fsync(_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("module", "name", "broken", "code"),
    [
        (files.tempfile._os, "mkdir", _mkdir, errno.EROFS),
        (files.os, "replace", _replace, errno.EDQUOT),
        (files.os, "fsync", _fsync, errno.ENOSPC),
    ],
)
def test_messages_name_the_file_asked_for(tmp_path, monkeypatch, module, name, broken, code):
    write(tmp_path / "a.txt", "older")
    monkeypatch.setattr(module, name, broken)
    with pytest.raises(OSError, match=r": '[^']*/a\.txt'$") as failed:
        write(tmp_path / "a.txt", "newer")
    assert failed.value.errno == code and failed.value.filename == str(tmp_path / "a.txt")
    monkeypatch.undo()
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "older"


def test_a_name_too_long_is_the_one_asked_for(tmp_path):
    write(tmp_path / ("a" * 255), "as long as a name may be")
    with pytest.raises(OSError, match="/a{256}'$") as failed:
        write(tmp_path / ("a" * 256), "")
    assert failed.value.errno == errno.ENAMETOOLONG


def test_another_file_keeps_its_name_in_the_message(tmp_path):
    with pytest.raises(OSError, match="nowhere'$"), replacing(tmp_path / "a.txt"):
        (tmp_path / "nowhere").read_text()


def test_hdf5_tells_of_a_file_too_large_in_one_line(tmp_path):
    import h5py

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError) as failed, atomic_path(tmp_path / "a.weights.h5") as own:  # noqa: SIM117
            with h5py.File(own, "w") as stream:
                stream["a"] = np.zeros(10**6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (failed.value.filename, failed.value.strerror) == (str(tmp_path / "a.weights.h5"), "File too large")
    assert names(tmp_path) == []


def test_an_error_of_reading_is_given_its_file():
    with pytest.raises(OSError, match="Input/output error: 'a.npz'"), naming("a.npz"):
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OSError(errno.EIO, "", "other.npz"), "other.npz"),
        (OSError(errno.EIO, "", "/tmp/a.x.partial/a.npz"), "a.npz"),
        (OSError("no errno"), "a.npz"),
    ],
)
def test_only_errors_without_a_name_of_their_own_are_named(error, named):
    with pytest.raises(OSError) as failed, naming("a.npz", beside="/tmp/a.x.partial"):
        raise error
    assert failed.value.filename == named


def test_writable(tmp_path, monkeypatch):
    assert writable(tmp_path) and not writable(tmp_path / "nowhere")
    asked = []
    monkeypatch.setattr(files.os, "access", lambda *arguments: asked.append(arguments))
    assert not writable(tmp_path) and asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_sha256(tmp_path):
    Path(tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf")
