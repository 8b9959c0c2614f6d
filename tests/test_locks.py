"""A run belongs to one training at a time; a dead process holds nothing."""

import errno
import os
import signal
import socket
import subprocess
import sys

import filelock
import pytest
from conftest import ROOT

from lib import locks
from lib.console import UserError
from lib.locks import locked

HOLD = """
import errno, fcntl, sys
def missing(*_): raise OSError(errno.ENOSYS, "Function not implemented")
path, how, wait = sys.argv[1:]
if how == "without flock": fcntl.flock = missing
from lib.locks import locked
print("begins", flush=True)
with locked(path, wait=wait == "wait"):
    print("holds it", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["flock", "without flock"])
def hold(request, monkeypatch):
    """Starts a process that locks a path until its stdin closes; by flock, and as where there is none."""
    if request.param == "without flock":

        def missing(*_):
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(filelock._unix.fcntl, "flock", missing)
    started = []

    def hold(path, wait="") -> subprocess.Popen:
        command = [sys.executable, "-W", "ignore", "-c", HOLD, str(path), request.param, wait]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"begins\n"
        if not wait:
            assert process.stdout.readline() == b"holds it\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


pytestmark = pytest.mark.filterwarnings("ignore:flock not supported")


def test_the_process_that_holds_it_is_named(hold, tmp_path):
    path = tmp_path / "fold_0"
    process = hold(path)
    words = rf"fold_0: in use by process {process.pid} on {socket.gethostname()}; wait until it ends"
    for _ in range(2):  # who was refused has changed nothing
        with pytest.raises(UserError, match=words), locked(path):
            pytest.fail("two hold it")
    process.communicate()
    with locked(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_dead_process_holds_nothing(hold, tmp_path):
    process = hold(tmp_path / "fold_0")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with locked(tmp_path / "fold_0"), pytest.raises(UserError, match=f"process {os.getpid()} on "):  # noqa: SIM117
        with locked(tmp_path / "fold_0"):
            pytest.fail("two hold it")
    assert list(tmp_path.iterdir()) == []


def test_one_waits_for_the_process_that_holds_it(hold, tmp_path):
    process = hold(tmp_path / "fold_0")
    waiting = hold(tmp_path / "fold_0", "wait")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.5)
    process.communicate()
    assert waiting.communicate() == (b"holds it\n", None) and waiting.returncode == 0


def test_the_way_to_it_does_not_matter(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to("disk")
    monkeypatch.chdir(tmp_path)
    with locked("runs/fold_0"), pytest.raises(UserError, match="disk/fold_0: in use"), locked(tmp_path / "disk/fold_0"):
        pytest.fail("two hold it")
    with locked("runs/fold_0"), locked("runs/fold_1"):
        pass  # another one


def test_it_is_given_back_on_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "fold_0"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_can_only_be_read_needs_none(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "writable", lambda folder: False)
    with locked(tmp_path / "fold_0"), locked(tmp_path / "fold_0"):
        assert list(tmp_path.iterdir()) == []
