"""The table of faults: each row still applies to today's code and names a test that is there; the tool tells a fault
that is caught from one that is not."""

import ast
import subprocess

import pytest

from bench import mutants
from bench.mutants import Mutant, judge, read_table
from lib.console import Console, UserError

ROOT = mutants.ROOT
TABLE = read_table()


def test_there_are_at_least_sixty_different_faults():
    faults = {(mutant.file, mutant.old, mutant.new) for mutant in TABLE if not mutant.equivalent}
    assert len(faults) >= 60
    assert len(faults) + sum(bool(mutant.equivalent) for mutant in TABLE) == len(TABLE)


@pytest.mark.parametrize("file", sorted({mutant.file for mutant in TABLE}))
def test_every_row_still_applies(file, tmp_path):
    text = (ROOT / file).read_text()
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    for mutant in TABLE:
        if mutant.file == file:
            (tmp_path / file).write_text(text)
            mutant.apply(tmp_path)
            ast.parse((tmp_path / file).read_text())  # a fault, not a broken file


def test_every_row_names_tests_that_are_there():
    names = {}
    for mutant in TABLE:
        assert bool(mutant.tests) != bool(mutant.equivalent), mutant
        for test in mutant.tests:
            file, _, name = test.partition("::")
            if file not in names:
                tree = ast.parse((ROOT / file).read_text())
                names[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert not name or name.partition("[")[0] in names[file], test


@pytest.fixture
def project(tmp_path):
    """A project of one function, with a test that sees one of its two sides."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "size.py").write_text("def size(x):\n    return abs(x) + 0\n")
    test = "from lib.size import size\n\n\ndef test_size():\n    assert size(-2) == 2\n"
    (tmp_path / "test_size.py").write_text(test)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def fault(old, new, tests="test_size.py::test_size"):
    return Mutant("lib/size.py", old, new, "size", (tests,))


def test_what_is_caught_and_what_survives(project, monkeypatch):
    faults = fault("abs(x)", "x"), fault(" + 0", ""), fault("return", "while x:\n        pass\n    return")
    monkeypatch.setattr(mutants, "LIMIT", 5)
    before = (project / "lib" / "size.py").read_bytes()
    verdicts = judge([*faults, fault("return", "retrun")], project, 2, Console(quiet=True))
    assert [verdict.outcome for verdict in verdicts] == ["caught", "survived", "timed out", "not run"]
    assert (project / "lib" / "size.py").read_bytes() == before


@pytest.mark.parametrize("old", ("", "x", "absent"))
def test_a_stale_row_is_refused(project, old):
    with pytest.raises(UserError, match="stale: lib/size.py"):
        judge([fault(old, "y")], project, 1, Console(quiet=True))


def test_tests_that_fail_without_a_fault_are_refused(project):
    (project / "test_size.py").write_text("def test_size():\n    assert False\n")
    with pytest.raises(UserError, match="fail without any fault: FAILED test_size.py::test_size"):
        judge([fault("abs", "int")], project, 1, Console(quiet=True))
