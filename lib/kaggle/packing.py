"""What travels in a kernel: the tracked scripts, and all that they import."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lib.console import UserError

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDED = ("train.py", "infer.py", "submission.py")  # as kernels/entry.py runs them


def scripts() -> dict[str, str]:
    """The text of each script and of all modules in lib/, by name, sorted: what git tracks and nothing else.

    Raises UserError outside a git checkout, and where a file is missing that one of the others needs.
    """
    names = sorted(
        name for name in _git("ls-files", "-z", "--", ":(glob)*.py", ":(glob)lib/**/*.py").split("\0") if name
    )
    names = [name for name in names if (ROOT / name).exists()]
    if missing := [name for name in NEEDED if name not in names]:
        raise UserError(
            f"{ROOT / missing[0]}: git does not track it, and only tracked files are packed; work in a clone"
        )
    files = {name: (ROOT / name).read_text(encoding="utf-8") for name in names}
    for name, text in files.items():
        for module in _imported(name, text):
            if module not in files and (ROOT / module).exists():
                raise UserError(f"{module}: imported by {name}, but git does not track it: git add {module}")
    return files


def _git(*arguments: str) -> str:
    try:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    except FileNotFoundError:
        raise UserError("git: not found, and only the files that it tracks are packed; install it") from None
    except (OSError, ValueError, subprocess.CalledProcessError):
        raise UserError(f"{ROOT}: git lists no tracked files, and only those are packed; work in a clone") from None


def _imported(name: str, text: str) -> Iterator[str]:
    """The files of this project that a script's imports would be found in, if they were there."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UserError(f"{name}, line {error.lineno}: is no Python ({error.msg}); correct it") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = PurePosixPath(name).parts[: -node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            modules = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for module in modules:
            path = module.replace(".", "/")
            yield from (f"{path}.py", f"{path}/__init__.py")
