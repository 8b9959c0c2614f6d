"""One frozen, typed Config for a run: overrides by name, JSON round trip, a hash."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, field

from lib.console import UserError


def _option(
    default,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple = (),
    search: dict | tuple = (),
    when: Callable[[Config], bool] = lambda config: True,
):
    """A field. Tuning tries `search`: a range in the words of Optuna's suggest functions, or choices; empty: never.

    It does so `when` a configuration uses the field: tuning a rung of the ladder does not turn it into another.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "search": search, "when": when}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Everything that decides a run besides the data and the fold. Fields state their help, bounds and choices.

    Raises UserError when a value lies outside its bounds or is no listed choice.
    """

    experiment: str = _option("seventh", "name of the experiment, and of its folder under runs/")

    # Model
    width: int = _option(32, "filters at full resolution; doubled at each level down", low=1)
    depth: int = _option(4, "poolings in each U-Net; the tile must divide by 2^depth", low=1, high=8)
    nesting: int = _option(2, "U-Nets in a row, each reading the features and skips of the one before", low=1, high=3)
    dspp_rates: tuple[int, ...] = _option(
        (6, 12, 18),
        "dilation rates of the spatial pyramid at the bottleneck; empty: none",
        search=((1, 2, 3), (1, 2, 4), (2, 4, 6), (6, 12, 18)),  # at depth four the bottleneck is 4 x 8
        when=lambda config: config.dspp_rates != (),
    )
    attention: str = _option(
        "dual",
        "recalibration at the bottleneck",
        choices=("none", "channel", "spatial", "dual"),
        search=("channel", "spatial", "dual"),
        when=lambda config: config.attention != "none",
    )
    transformer: str = _option(
        "none",
        "transformer blocks: before and after each bottleneck, or one at the last U-Net's coarsest level",
        choices=("none", "bottleneck", "coarsest"),
    )
    transformer_rate: float = _option(
        1.0,
        "learning rate of the transformer weights, as a share of the others'",
        low=0,
        search=dict(low=0.01, high=1.0, log=True),
        when=lambda config: config.transformer != "none",
    )
    stochastic_depth: float = _option(
        0.0,
        "chance that training skips a transformer block's residual branch",
        low=0,
        high=0.9,
        search=dict(low=0.0, high=0.5, step=0.1),
        when=lambda config: config.transformer != "none",
    )
    dropout: float = _option(
        0.0, "dropout at the bottlenecks", low=0, high=0.9, search=dict(low=0.0, high=0.5, step=0.05)
    )

    # Data and augmentation, training fold only
    folds: int = _option(5, "stratified folds", low=2, high=50)
    seed: int = _option(0, "seeds the weights, the folds and every augmentation", low=0)
    shift_down: int = _option(
        32,
        "largest random shift along the height, in pixels",
        low=0,
        high=63,
        search=dict(low=8, high=48, step=8),
        when=lambda config: config.shift_down > 0,
    )
    shift_across: int = _option(
        64,
        "largest random shift along the width, in pixels",
        low=0,
        high=127,
        search=dict(low=16, high=96, step=16),
        when=lambda config: config.shift_across > 0,
    )
    flip: float = _option(
        0.0,
        "chance of a left-right flip",
        low=0,
        high=1,
        search=dict(low=0.0, high=0.5, step=0.1),
        when=lambda config: config.shift_across > 0,  # where an experiment augments at all
    )
    copy_paste: float = _option(
        0.5,
        "share of training tiles that get 3 to 5 big rocks pasted",
        low=0,
        high=1,
        search=dict(low=0.1, high=1.0, step=0.1),
        when=lambda config: config.copy_paste > 0,
    )
    paste_in_place: bool = _option(
        False,
        "paste a rock where it was cut instead of anywhere",
        search=(False, True),
        when=lambda config: config.copy_paste > 0,
    )
    general: float = _option(
        0.0, "share of the rarest class's tiles that are shifted, rotated, zoomed, sheared", low=0, high=1
    )
    randaugment: float = _option(0.0, "share of the rarest class's tiles that get a RandAugment policy", low=0, high=1)
    synthesis: float = _option(0.0, "share of training tiles composed from cutouts of all classes", low=0, high=1)
    oversample: int = _option(
        4,
        "how often an epoch shows each tile with big rock",
        low=1,
        high=100,
        search=dict(low=2, high=8),
        when=lambda config: config.oversample > 1,
    )

    # Loss: a weighted sum
    # Not searched: only the proportions of the weights matter to Adam
    cross_entropy: float = _option(1.0, "weight of sparse categorical cross-entropy", low=0)
    dice: float = _option(0.0, "weight of the dice loss", low=0, search=dict(low=0.0, high=2.0, step=0.1))
    focal: float = _option(
        0.0, "weight of categorical focal cross-entropy", low=0, search=dict(low=0.0, high=2.0, step=0.1)
    )
    ignore_background: bool = _option(True, "leave class 0 out of the loss, as the score does")
    class_weights: str = _option(
        "none",
        "none, inverse (capped inverse frequency) or given",
        choices=("none", "inverse", "given"),
        search=("none", "inverse"),
        when=lambda config: config.class_weights != "given",
    )
    class_weight_cap: float = _option(
        10.0,
        "largest class weight of class_weights=inverse",
        low=1,
        search=dict(low=2.0, high=30.0, log=True),
        when=lambda config: config.class_weights == "inverse",
    )
    given_weights: tuple[float, ...] = _option(
        (1.0, 1.0, 1.0, 1.0, 1.0), "five class weights of class_weights=given", low=0
    )

    # Training
    epochs: int = _option(200, "most epochs; early stopping usually ends before", low=1)
    batch_size: int = _option(32, "tiles per step", low=1, search=(8, 16, 32, 64))
    learning_rate: float = _option(1e-3, "Adam's initial step size", low=0, search=dict(low=1e-4, high=1e-2, log=True))
    weight_decay: float = _option(
        4e-3, "decoupled weight decay (AdamW)", low=0, search=dict(low=1e-5, high=1e-1, log=True)
    )
    plateau_patience: int = _option(15, "epochs without a better score before the learning rate falls", low=1)
    plateau_factor: float = _option(0.1, "what the learning rate is multiplied by then", low=0.001, high=0.999)
    patience: int = _option(30, "epochs without a better score before training stops", low=1)
    precision: str = _option(
        "float32",
        "arithmetic; mixed_float16 for a T4, mixed_bfloat16 for newer GPUs; logits stay float32",
        choices=("float32", "mixed_float16", "mixed_bfloat16"),
    )

    # Inference
    predict_background: bool = _option(False, "may predict class 0, which the score counts as a fifth, wrong class")
    views: tuple[str, ...] = _option(
        ("identity", "hflip", "shift(0,8)", "shift(0,-8)", "shift(4,0)", "shift(-4,0)"),
        "views that --tta averages: operations of lib/views.py's table, joined by +",
    )

    def __post_init__(self):
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            low, high, choices = (spec.metadata[key] for key in ("low", "high", "choices"))
            if choices and value not in choices:
                raise UserError(f"{spec.name}={value}: choose one of {', '.join(choices)}")
            for number in value if isinstance(value, tuple) else (value,):
                if (low is not None and not number >= low) or (high is not None and not number <= high):
                    bounds = f"at least {low}" if high is None else f"between {low} and {high}"
                    raise UserError(f"{spec.name}={number}: must be {bounds}")

    def replace(self, **changes) -> Config:
        """A copy with typed changes. Raises UserError for an unknown field, naming the nearest one."""
        for name in changes:
            if name not in TYPES:
                raise UserError(f"{name}: no such config field; " + _nearest(name, TYPES))
        return dataclasses.replace(self, **changes)

    def override(self, assignments: list[str]) -> Config:
        """A copy with `key=value` texts applied, each converted to the type of its field.

        Tuples are comma-separated (`dspp_rates=1,2,4`; `dspp_rates=` is empty). Raises UserError.
        """
        changes = {}
        for text in assignments:
            name, equals, value = text.partition("=")
            if not equals:
                raise UserError(f"--set {text}: write key=value")
            if name not in TYPES:
                raise UserError(f"--set {text}: no such config field; " + _nearest(name, TYPES))
            changes[name] = _convert(name, value)
        return dataclasses.replace(self, **changes)

    def differences(self, other: Config) -> dict[str, object]:
        """The fields of `self` whose values differ from `other`'s."""
        return {name: getattr(self, name) for name in TYPES if getattr(self, name) != getattr(other, name)}

    def chosen_folds(self, text: str) -> tuple[int | None, ...]:
        """The folds that `--fold` names: a number, `all`, or `none` (no validation fold: None). Raises UserError."""
        if text == "none":
            return (None,)
        if text == "all":
            return tuple(range(self.folds))
        if not text.isdigit() or int(text) >= self.folds:
            raise UserError(f"--fold {text}: choose 0 to {self.folds - 1}, all or none")
        return (int(text),)

    def to_json(self) -> str:
        """Readable JSON, one field a line."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str, name: str = "config.json") -> Config:
        """Reads `to_json`'s text. Raises UserError, naming `name`, for other fields or types."""
        try:
            values = json.loads(text)
            unknown = set(values) ^ set(TYPES)
            if unknown:
                raise UserError(f"{name}: fields {sorted(unknown)} do not match this version; train the run again")
            return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{name}: not a config ({error}); train the run again") from None

    def hash(self) -> str:
        """Twelve hex digits of the configuration's SHA-256."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


TYPES: dict[str, type] = typing.get_type_hints(Config)


def assignment(name: str, value: object) -> str:
    """The `name=value` text that `Config.override` reads back; floats to three significant digits."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return f"{name}=" + (",".join(map(str, value)) if isinstance(value, tuple) else text)


def _nearest(name: str, names) -> str:
    close = difflib.get_close_matches(name, list(names), 1, 0)
    return f"did you mean {close[0]}?"


def _convert(name: str, text: str):
    kind = TYPES[name]
    try:
        if typing.get_origin(kind) is tuple:
            # A comma inside brackets belongs to its item: shift(0,8)
            items = [item for item in re.split(r",(?![^(]*\))", text) if item]
            return tuple(typing.get_args(kind)[0](item) for item in items)
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        wanted = getattr(kind, "__name__", str(kind))
        raise UserError(f"--set {name}={text}: not of type {wanted}") from None
