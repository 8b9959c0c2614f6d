"""The search space of tuning, and what a study must agree on to be continued."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from pydantic import Field, JsonValue

from lib.config import Config, assignment
from lib.schema import Record

Values = dict | tuple
"""What a field may be: a range in the words of Optuna's suggest functions, or choices."""


@dataclass(frozen=True)
class Searched:
    """What tuning tries for a field, `when` a configuration uses it: an experiment does not become another."""

    values: Values
    when: Callable[[Config], bool] = lambda config: True


# Not cross_entropy: only the proportions of the loss weights matter to Adam
SEARCHED: dict[str, Searched] = {
    # At depth four the bottleneck is 4 x 8
    "dspp_rates": Searched(((1, 2, 3), (1, 2, 4), (2, 4, 6), (6, 12, 18)), lambda config: config.dspp_rates != ()),
    "attention": Searched(("channel", "spatial", "dual"), lambda config: config.attention != "none"),
    "transformer_rate": Searched(dict(low=0.01, high=1.0, log=True), lambda config: config.transformer != "none"),
    "stochastic_depth": Searched(dict(low=0.0, high=0.5, step=0.1), lambda config: config.transformer != "none"),
    "dropout": Searched(dict(low=0.0, high=0.5, step=0.05)),
    "shift_down": Searched(dict(low=8, high=48, step=8), lambda config: config.shift_down > 0),
    "shift_across": Searched(dict(low=16, high=96, step=16), lambda config: config.shift_across > 0),
    # Where an experiment augments at all
    "flip": Searched(dict(low=0.0, high=0.5, step=0.1), lambda config: config.shift_across > 0),
    "copy_paste": Searched(dict(low=0.1, high=1.0, step=0.1), lambda config: config.copy_paste > 0),
    "paste_in_place": Searched((False, True), lambda config: config.copy_paste > 0),
    "oversample": Searched(dict(low=2, high=8), lambda config: config.oversample > 1),
    "dice": Searched(dict(low=0.0, high=2.0, step=0.1)),
    "focal": Searched(dict(low=0.0, high=2.0, step=0.1)),
    "class_weights": Searched(("none", "inverse"), lambda config: config.class_weights != "given"),
    "class_weight_cap": Searched(dict(low=2.0, high=30.0, log=True), lambda config: config.class_weights == "inverse"),
    "batch_size": Searched((8, 16, 32, 64)),
    "learning_rate": Searched(dict(low=1e-4, high=1e-2, log=True)),
    "weight_decay": Searched(dict(low=1e-5, high=1e-1, log=True)),
}


class Fingerprint(Record):
    """What two processes must share for their trials to be comparable. A study keeps it as JSON."""

    config: Config
    space: dict[str, JsonValue] = Field(alias="search space")
    data: str
    fold: int

    @classmethod
    def of(cls, base: Config, space: Mapping[str, Values], digest: str, fold: int) -> Fingerprint:
        """Of a base configuration, a search space, the data's digest, and the fold that scores the trials."""
        plain = json.loads(json.dumps(space))
        return cls.model_validate({"config": base, "search space": plain, "data": digest, "fold": fold})

    def conflict(self, kept: Fingerprint) -> str | None:
        """In words, how a study's fingerprint `kept` differs from this one, asked for; None where they agree."""
        if changed := self.config.differences(kept.config):
            pairs = (f"{name}={getattr(kept.config, name)} (asked: {value})" for name, value in changed.items())
            return "another configuration: " + ", ".join(pairs)
        names = [name for name in {**self.space, **kept.space} if self.space.get(name) != kept.space.get(name)]
        if names:
            return "another search space: it differs in " + ", ".join(names)
        return next(
            (f"another {name}" for name in ("data", "fold") if getattr(self, name) != getattr(kept, name)), None
        )


def search_space(fixed: Collection[str] = ()) -> dict[str, Values]:
    """What each searched field may be; `fixed` names fields to leave alone."""
    return {name: searched.values for name, searched in SEARCHED.items() if name not in fixed}


def is_used(name: str, config: Config) -> bool:
    """Whether a field matters in this configuration; the parts that an experiment leaves off are not tuned."""
    return SEARCHED[name].when(config)


def suggest(trial, base: Config, space: Mapping[str, Values]) -> Config:
    """`base` with the values that an Optuna trial suggests for the fields of `space` that the configuration uses.

    Choices go to Optuna as texts: a database keeps no tuples. Floats are rounded as `assignment` writes them, so that
    the command line gives the very configuration that a trial had.
    """
    config = base
    for name, values in space.items():
        if not is_used(name, config):
            continue
        if isinstance(values, dict):
            ask = trial.suggest_int if isinstance(values["low"], int) else trial.suggest_float
            value = ask(name, **values)
        else:
            value = trial.suggest_categorical(name, [_text(name, choice) for choice in values])
        config = config.override([assignment(name, value)])
    return config


def own_values(base: Config, space: Mapping[str, Values]) -> dict[str, object]:
    """The parameters, in Optuna's form, with which `suggest` returns `base` itself."""
    values = {name: getattr(base, name) for name in space}
    return {name: value if isinstance(space[name], dict) else _text(name, value) for name, value in values.items()}


def _text(name: str, value: object) -> str:
    return assignment(name, value).partition("=")[2]
