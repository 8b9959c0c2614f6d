"""File names that a server gave: none may lead out of the folder that it is written to, nor onto another one."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from lib.console import UserError
from lib.kaggle.text import plain, shortened

LONGEST_PART, LONGEST_NAME = 200, 1000  # bytes; file systems take 255, and something is written beside a file


def check_names(names: Iterable[str], what: str) -> None:
    """Raises UserError, beginning with `what`, for the first name that cannot be a file of its own below a folder.

    Refused are names that are empty, absolute, too long or climb, that hold a backslash, a drive or a character which
    does not print, and two names that some disk takes for one, or of which one is a folder of the other.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        if problem := _problem(name):
            raise UserError(f"{what}: lists a file {shortened(name)!r}, {problem}; nothing was written")
        # A disk may tell neither capitals nor ways of writing an umlaut apart
        parts = unicodedata.normalize("NFC", name).casefold().split("/")
        paths = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        other = (
            seen.get(paths[-1]) or folders.get(paths[-1]) or next((seen[path] for path in paths if path in seen), "")
        )
        if other:
            raise UserError(f"{what}: lists the files {other!r} and {name!r}, which collide; nothing was written")
        seen[paths[-1]] = name
        folders |= dict.fromkeys(paths[:-1], name)


def _problem(name: str) -> str:
    if not name:
        return "whose name is empty"
    if plain(name) != name or "\\" in name:
        return "with a character that no file of ours has"
    if name.startswith("/") or name[1:2] == ":":
        return "an absolute path"
    parts = name.split("/")
    if ".." in parts:
        return "which leads out of the folder"
    if any(part.strip() in ("", ".") for part in parts):
        return "with an empty part in its path"
    if len(name.encode(errors="replace")) > LONGEST_NAME or any(
        len(part.encode(errors="replace")) > LONGEST_PART for part in parts
    ):
        return "whose name is too long"
    return ""
