"""The house: imports go one way, facts stand in one place, nothing light is imported late."""

import ast
import json
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from lib import task

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [*ROOT.glob("*.py"), *ROOT.glob("lib/**/*.py"), *ROOT.glob("kernels/*.py")]
}
# Too slow for `--help`, or absent where one backend alone is installed
HEAVY = {"jax", "kaggle", "kagglesdk", "keras", "keras_cv", "matplotlib", "optuna", "pandas", "PIL", "requests"}
HEAVY |= {"scipy", "sklearn", "tensorflow", "tqdm", "imagehash", "ray", "rasterio"}


def imported(tree: ast.AST) -> set[str]:
    """The names of all modules that a piece of code imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # `from lib import data` names a module, `from lib.data import load` a function
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
GRAPH = {name: (imported(tree) & set(MODULES)) - {"lib", name} for name, tree in TREES.items()}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def heavy_chain(name: str, seen: frozenset[str] = frozenset()) -> bool:
    """Whether importing a module of ours loads something heavy."""
    top = {item.partition(".")[0] for node in TREES[name].body for item in imported(node) if is_import(node)}
    inner = {item for node in TREES[name].body if is_import(node) for item in imported(node) & set(MODULES)}
    return bool(top & HEAVY) or any(heavy_chain(item, seen | {name}) for item in inner - seen - {name, "lib"})


def is_import(node: ast.AST) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def test_no_module_imports_itself_in_a_circle():
    assert cycle(GRAPH) == []
    assert cycle(GRAPH | {"lib.task": {"lib.data"}})  # a circle would be seen


def test_the_facts_import_nothing():
    assert not imported(TREES["lib.task"])


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_do_not_import_each_other(name):
    assert not GRAPH[name] & set(SCRIPTS)
    assert not any(name in imports for imports in GRAPH.values())


@pytest.mark.parametrize("name", MODULES)
def test_imports_inside_functions_save_something_heavy(name):
    functions = [node for node in ast.walk(TREES[name]) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    late = set().union(*(imported(node) for function in functions for node in ast.walk(function) if is_import(node)))
    for item in late:
        ours = item if item in MODULES else item.rpartition(".")[0]
        if ours in MODULES:
            assert heavy_chain(ours), f"{name} imports {item} inside a function, though it is light"
        elif item.partition(".")[0] in sys.stdlib_module_names:
            raise AssertionError(f"{name} imports {item} inside a function")


def test_the_kernel_states_the_same_facts():
    metadata = json.loads((ROOT / "kernels" / "kernel-metadata.json").read_text())
    assert metadata["competition_sources"] == [task.COMPETITION]
    constants = {
        node.targets[0].id: node.value.value
        for node in TREES["kernels.entry"].body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    assert constants["DATA"] == task.DATA_FILE


def test_the_facts_stand_in_one_place():
    """Tile shape, data file, test set and competition are not spelled out again in the code."""
    facts = {task.COMPETITION, task.DATA_FILE, task.DATA_SHA256, task.DATA_BYTES, task.TEST_TILES}
    for name, tree in TREES.items():
        if name in ("lib.task", "kernels.entry"):
            continue
        spelled = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not facts & {value for value in spelled if isinstance(value, (str, int))}, name


def test_the_facts_agree_with_each_other():
    assert task.CLASSES[task.BIG_ROCK] == "big rock" and len(task.CLASSES) == 5
    assert (task.HEIGHT, task.WIDTH, task.TEST_TILES) == (64, 128, 10_022)
