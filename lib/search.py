"""The search space of tuning, read off the fields of lib/config.py, and what a study must agree on to be continued."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping

from lib.config import TYPES, Config, assignment

_FIELDS = {field.name: field.metadata for field in dataclasses.fields(Config)}


def search_space(fixed: Collection[str] = ()) -> dict[str, dict | tuple]:
    """What each searchable field may be, as lib/config.py states it; `fixed` names fields to leave alone."""
    return {name: data["search"] for name, data in _FIELDS.items() if data["search"] and name not in fixed}


def is_used(name: str, config: Config) -> bool:
    """Whether a field matters in this configuration; the parts that an experiment leaves off are not tuned."""
    return _FIELDS[name]["when"](config)


def suggest(trial, base: Config, space: Mapping[str, dict | tuple]) -> Config:
    """`base` with the values that an Optuna trial suggests for the fields of `space` that the configuration uses.

    Choices go to Optuna as texts: a database keeps no tuples. Floats are rounded as `assignment` writes them, so that
    the command line gives the very configuration that a trial had.
    """
    config = base
    for name, search in space.items():
        if not is_used(name, config):
            continue
        if isinstance(search, dict):
            ask = trial.suggest_int if TYPES[name] is int else trial.suggest_float
            value = ask(name, **search)
        else:
            value = trial.suggest_categorical(name, [_text(name, choice) for choice in search])
        config = config.override([assignment(name, value)])
    return config


def own_values(base: Config, space: Mapping[str, dict | tuple]) -> dict[str, object]:
    """The parameters, in Optuna's form, with which `suggest` returns `base` itself."""
    values = {name: getattr(base, name) for name in space}
    return {name: value if isinstance(space[name], dict) else _text(name, value) for name, value in values.items()}


def fingerprint(base: Config, space: Mapping[str, dict | tuple], digest: str, fold: int) -> dict[str, object]:
    """What two processes must share for their trials to be comparable; plain JSON values."""
    return json.loads(
        json.dumps({"config": dataclasses.asdict(base), "search space": space, "data": digest, "fold": fold})
    )


def conflict(asked: Mapping[str, object], kept: Mapping[str, object]) -> str | None:
    """In words, how a study's fingerprint differs from the one asked for; None where they agree."""
    names = [name for name in asked["config"] if asked["config"][name] != kept["config"].get(name)]
    if names:
        pairs = (f"{name}={kept['config'].get(name)} (asked: {asked['config'][name]})" for name in names)
        return "another configuration: " + ", ".join(pairs)
    spaces = asked["search space"], kept["search space"]
    names = [name for name in {**spaces[0], **spaces[1]} if spaces[0].get(name) != spaces[1].get(name)]
    if names:
        return "another search space: it differs in " + ", ".join(names)
    return next((f"another {name}" for name in ("data", "fold") if asked[name] != kept[name]), None)


def _text(name: str, value: object) -> str:
    return assignment(name, value).partition("=")[2]
