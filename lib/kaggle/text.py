"""What a server says, made fit for a terminal: no sequence of characters in it commands anything."""

from __future__ import annotations

import re

LONGEST = 300  # characters of a server's text in a message of ours
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"  # titles, links, device strings
    r"|\x1b[ -/]*[0-~]"
)


def plain(text: str) -> str:
    """Text without escape sequences, control characters and invisible ones that reorder lines; one line stays one."""
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else "" for letter in _ESCAPES.sub("", text)
    )


def lines(text: str) -> list[str]:
    """The lines of a text, each plain."""
    return [plain(line).rstrip() for line in text.splitlines()]


def shortened(text: str) -> str:
    """At most LONGEST plain characters."""
    text = plain(text).strip()
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."
