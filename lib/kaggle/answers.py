"""Kaggle's answers, read as plain JSON: a field that is missing or odd is as good as empty."""

from __future__ import annotations

import contextlib
import json
import math
import re
from datetime import timedelta

from lib.kaggle.text import lines


class Answer:
    """For the client's `response_type`: the JSON object itself."""

    @staticmethod
    def prepare_from(response) -> dict:
        """Raises TypeError where it is something else, and ValueError where it is no JSON."""
        answer = response.json()
        if not isinstance(answer, dict):
            raise TypeError("no JSON object")
        return answer


def score_of(value: object) -> float | None:
    """A score that Kaggle wrote, in words mostly; None for what is no finite number."""
    try:
        score = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return score if math.isfinite(score) and not isinstance(value, bool) else None


def text_of(answer: dict, name: str) -> str:
    """A field's text; '' where it has none."""
    value = answer.get(name)
    return value if isinstance(value, str) else ""


def part_of(answer: dict, name: str) -> dict:
    """A field's object; an empty one where it has none."""
    value = answer.get(name)
    return value if isinstance(value, dict) else {}


def items_of(answer: dict, name: str) -> list[dict]:
    """The objects in a field's list."""
    value = answer.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def hours_of(value: object) -> float | None:
    """Hours of a duration as protocol buffers write it in JSON, such as '151.5s'."""
    if not isinstance(value, str) or not re.fullmatch(r"\d{1,9}(\.\d+)?s", value):
        return None
    return timedelta(seconds=float(value[:-1])).total_seconds() / 3600


def log_lines(text: str) -> list[str]:
    """Lines of a log: of events as JSON, of which some may be odd; plain text stays as it is."""
    with contextlib.suppress(ValueError, RecursionError):
        events = json.loads(text)
        if isinstance(events, list):
            text = "".join(text_of(event, "data") for event in events if isinstance(event, dict))
    return lines(text)
