"""Everything that is read back is a Record, checked field by field; what is wrong with it is said in one line."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from lib.console import UserError

DIGEST = "digest"
LONGEST_VALUE = 40  # characters of a wrong value that a message shows

# House style for what is wrong most often; for the rest pydantic's own words serve
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is no field that this version knows",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_short": "needs {min_length} or more",
    "too_long": "takes {max_length} at most",
    "string_pattern_mismatch": "must match {pattern}",
}


class Record(BaseModel):
    """Values with names: frozen, of exactly these types, without other fields, without infinity and NaN.

    A field that a file lacks takes its default, which always means what files without it meant.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> str:
        """Readable JSON, one field a line."""
        return self.model_dump_json(indent=1, by_alias=True)

    @classmethod
    def check(cls, values: Mapping[str, object], source: object, advice: str, strict: bool = True) -> Self:
        """The record of plain values; not `strict` reads numbers and truth values from text.

        Raises UserError, naming `source` and the field, and ending in `advice`.
        """
        try:
            return cls.model_validate(values, strict=strict)
        except ValidationError as error:
            raise _complaint(error, source, advice) from None

    @classmethod
    def from_json(cls, text: str | bytes, source: object, advice: str) -> Self:
        """The record of a JSON text. Raises UserError as `check` does."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise _complaint(error, source, advice) from None

    @classmethod
    def read(cls, path: str | os.PathLike, advice: str) -> Self:
        """The record in a JSON file. Raises UserError as `check` does, and OSError where there is no such file."""
        return cls.from_json(Path(path).read_bytes(), path, advice)

    @classmethod
    def read_rows(cls, path: str | os.PathLike, advice: str) -> list[Self]:
        """The records in a CSV file, one a line; an empty cell is a missing field. Raises as `read` does."""
        try:
            text = Path(path).read_bytes().decode("utf-8")
            reader = csv.DictReader(io.StringIO(text, newline=""), restkey="column without a name", strict=True)
            columns = reader.fieldnames or []
            rows = [(f"{path}, line {reader.line_num}", row) for row in reader]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path}: no CSV text ({error}); {advice}") from None
        if not columns or len(set(columns)) < len(columns):
            raise UserError(f"{path}: no header, or one that names a column twice; {advice}")
        if not text.endswith("\n") or any(None in row.values() for _, row in rows):
            raise UserError(f"{path}: a line is cut short; {advice}")
        filled = ((line, {name: cell for name, cell in row.items() if cell != ""}) for line, row in rows)
        return [cls.check(row, line, advice, strict=False) for line, row in filled]


class Sealed(Record):
    """A Record in a file of its own that tells when it was changed: beside the fields stands a `digest` of them.

    A file without one is read like any other: an older version wrote it, or somebody who changed it on purpose.
    """

    def to_json(self) -> str:
        """Readable JSON, one field a line, with the digest."""
        values = self.model_dump(mode="json", by_alias=True)
        return json.dumps({**values, DIGEST: _digest(values)}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes, source: object, advice: str) -> Self:
        """The record of a JSON text. Raises UserError as `check` does, and where the digest is another."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None  # pydantic says why
        if isinstance(values, dict) and DIGEST in values:
            if values.pop(DIGEST) != _digest(values):
                raise UserError(f"{source}: was changed after it was written, its {DIGEST} says; {advice}")
            text = json.dumps(values)
        return super().from_json(text, source, advice)


def _digest(values: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def option(kind: Any) -> Callable[[str], Any]:
    """For `type=` of an argparse option: its text as a value of an annotated type, such as lib.records.Positive."""
    adapter = TypeAdapter(kind, config=Record.model_config)

    def convert(text: str) -> Any:
        try:
            return adapter.validate_python(text, strict=False)
        except ValidationError as error:
            raise argparse.ArgumentTypeError(f"{_shortened(text)}: {_words(error.errors()[0])}") from None

    return convert


def _complaint(error: ValidationError, source: object, advice: str) -> UserError:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
    if place and first["type"] != "missing" and not isinstance(first["input"], dict | list | tuple):
        place += "=" + _shortened(str(first["input"]))
    return UserError(": ".join(filter(None, [str(source), place, f"{_words(first)}; {advice}"])))


def _words(error: ErrorDetails) -> str:
    # pydantic's own words may quote the text, with brackets of its own
    words = _WORDS[error["type"]].format(**error.get("ctx", {})) if error["type"] in _WORDS else error["msg"]
    return words.removeprefix("Value error, ").replace("Input should be", "must be")


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."
