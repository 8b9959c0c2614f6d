"""The campaign of damages: a small one finds no fault, and each kind of fault is told where there is one."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from bench import command_lines, damage
from bench.damage import Kind, Readers, attempt, plain, spoil
from lib.console import Console, UserError


@pytest.fixture(scope="module")
def outcomes():
    """A few damages of every kind of file, and a wrong command line of every script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_lines, "WRONG", 1.0)  # a right one would train
        return damage.campaign(8, len(command_lines.SCRIPTS), 4, "", Console(quiet=True))[0]


def test_a_small_campaign_finds_no_fault(outcomes):
    assert [outcome for outcome in outcomes if outcome.verdict not in damage.FINE] == []


def test_a_campaign_meets_every_kind_of_file_and_every_script(outcomes):
    kinds = [outcome.kind for outcome in outcomes if outcome.kind not in scripts()]
    assert set(kinds) >= {"data, stored", "data, lzma", "weights", "state", "metrics.json", "submission.csv.zip"}
    assert {kinds.count(kind) for kind in kinds} == {8}
    assert scripts() == {outcome.kind for outcome in outcomes} - set(kinds)
    assert {outcome.verdict for outcome in outcomes if outcome.kind in scripts()} == {"refused"}


def scripts() -> set[str]:
    return {name.split()[-1] for name in command_lines.SCRIPTS}


def number_in(path: Path, free: bool = False) -> Kind:
    """A kind of file that holds one number, read without a look at anything else."""
    read = lambda: (None, int(path.read_bytes()[:3])) if free else (int(path.read_bytes()[:3]), None)  # noqa: E731
    return Kind("number", path, read, free="no number is better" if free else "")


@pytest.fixture
def path(tmp_path):
    (tmp_path / "number.txt").write_text("123")
    return tmp_path / "number.txt"


def verdict(kind: Kind, *damages: bytes) -> set[str]:
    good = plain(kind.read()[0]), plain(kind.read()[1])
    with pytest.MonkeyPatch.context() as patch:
        found = set()
        for content in damages:
            patch.setattr(damage, "spoil", lambda *_, content=content: ("other", content))
            found.add(attempt(kind, good, 0, 0, []).verdict)
            assert kind.path.read_text() == "123"
        return found


def test_every_verdict(path):
    assert verdict(number_in(path), b"123 ", b"123", b"123x") == {"same"}
    assert verdict(number_in(path), b"124", b"1") == {"other result"}
    assert verdict(number_in(path, free=True), b"124", b"1") == {"free text"}
    assert verdict(number_in(path), b"x") == {"traceback"}

    def refuse():
        if path.read_text() != "123":
            raise UserError(f"{path}: is not 123; write it again")
        return 123, None

    assert verdict(Kind("number", path, refuse), b"124", b"x") == {"refused"}


def test_every_damage_changes_the_file_and_comes_again():
    content = bytes(range(256)) * 20
    for text in (False, True):
        draws = [spoil(np.random.default_rng([0, number]), content, text, [b"other"]) for number in range(200)]
        again = [spoil(np.random.default_rng([0, number]), content, text, [b"other"]) for number in range(200)]
        assert draws == again
        assert sum(damaged == content for _, damaged in draws) < 20  # zeros upon zeros, a word for itself
        ways = {way.split()[0] for way, _ in draws}
        assert len(ways) >= 5


def hanging(connection, folder, seed):
    """Reads nothing: the first damage hangs, the second kills."""
    (folder / "file").touch()
    connection.send({"number": ""})
    if connection.recv()[1] == 0:
        time.sleep(600)
    os.kill(os.getpid(), 9)


def test_a_reader_that_hangs_or_dies_is_a_fault_and_the_next_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(damage, "serve", hanging)
    monkeypatch.setattr(damage, "LIMIT", 1)
    readers = Readers(tmp_path, 0)
    assert readers.attempt("number", 0).verdict == "hang"
    assert readers.attempt("number", 1).verdict == "traceback"
    assert readers.attempt("number", 0).verdict == "hang"
    readers.close()


@pytest.mark.parametrize(
    ("script", "wrong", "expected"),
    [
        ("import sys; sys.exit(0)", True, "other result"),
        ("import sys; sys.exit(0)", False, "same"),
        ("import sys; sys.exit('error: one line')", True, "traceback"),  # exit code 1
        ("import sys; print('error: no', file=sys.stderr); sys.exit(2)", True, "refused"),
        ("import sys; print('error: no\\nmore', file=sys.stderr); sys.exit(2)", True, "traceback"),
        (
            "import sys; open('config.json', 'w'); print('error: no', file=sys.stderr); sys.exit(2)",
            True,
            "other result",
        ),
        ("1 / 0", True, "traceback"),
        ("import time; time.sleep(60)", True, "hang"),
    ],
)
def test_every_verdict_on_a_command(tmp_path, monkeypatch, script, wrong, expected):
    monkeypatch.setattr(command_lines, "LIMIT", 1 if expected == "hang" else 60)
    (tmp_path / "script.py").write_text(script)
    assert command_lines.attempt(tmp_path, [str(tmp_path / "script.py")], wrong).verdict == expected


def test_a_fault_ends_the_campaign_with_exit_code_1(capsys):
    fine = command_lines.Outcome("masks", "refused", "bit 1")
    fault = command_lines.Outcome("masks", "other result", "bit 2 of byte 3, number 4: ")
    assert damage.report([fine], {}, Console()) == 0
    assert damage.report([fine, fault], {}, Console()) == 1
    assert "other result: masks: bit 2 of byte 3, number 4" in capsys.readouterr().out
