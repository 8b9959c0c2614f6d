"""One frozen, typed Config for a run: overrides by name, JSON round trip, a hash."""

from __future__ import annotations

import difflib
import hashlib
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from lib.console import UserError
from lib.schema import Record
from lib.task import CLASSES, HEIGHT, WIDTH
from lib.views import parse_view

ADVICE = "see lib/config.py"  # how a message about --set ends
HIGHEST_SEED = 2**32 - 1  # numpy's and Keras's


def _view(text: str) -> str:
    try:
        parse_view(text)
    except UserError as error:
        raise ValueError(str(error).removeprefix("views: ")) from None
    return text


Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""A plain name, for a folder of its own."""
Seed = Annotated[int, Field(ge=0, le=HIGHEST_SEED)]
Neighbours = Literal["off", "labels"]
Context = Literal["off", "frame"]
Epochs = Annotated[int, Field(ge=1, le=100_000)]


class Config(Record):
    """Everything that decides a run besides the data and the fold. Fields state their bounds, choices and help.

    A new field's default means what runs without it did.
    """

    experiment: Name = Field("seventh", description="name of the experiment, and of its folder under runs/")

    # Model
    architecture: Literal["unet", "compact"] = Field(
        "unet", description="the report's nested U-Nets, or one small residual network on tiles folded 2 x 2"
    )
    width: int = Field(32, ge=1, le=1024, description="filters at full resolution; doubled at each level down")
    depth: int = Field(4, ge=1, le=8, description="poolings in each U-Net; the tile must divide by 2^depth")
    nesting: int = Field(
        2, ge=1, le=3, description="U-Nets in a row, each reading the features and skips of the one before"
    )
    dspp_rates: tuple[Annotated[int, Field(ge=1, le=WIDTH)], ...] = Field(
        (6, 12, 18),
        max_length=8,
        description="dilation rates of the spatial pyramid at the bottleneck; empty: none",
    )
    attention: Literal["none", "channel", "spatial", "dual"] = Field(
        "dual", description="recalibration at the bottleneck"
    )
    squeeze: bool = Field(False, description="squeeze and excitation after each convolution block of the U-Nets")
    transformer: Literal["none", "bottleneck", "coarsest"] = Field(
        "none",
        description="transformer blocks: before and after each bottleneck, or one at the last U-Net's coarsest level",
    )
    transformer_rate: float = Field(
        1.0, ge=0, le=100, description="learning rate of the transformer weights, as a share of the others'"
    )
    stochastic_depth: float = Field(
        0.0, ge=0, le=0.9, description="chance that training skips a transformer block's residual branch"
    )
    dropout: float = Field(0.0, ge=0, le=0.9, description="dropout at the bottlenecks")
    upscale: Literal["bilinear", "subpixel"] = Field(
        "bilinear",
        description="the compact network's last step, to full resolution: widened, then convolved with the raw tile; "
        "or convolved at half of it, which is faster, and unfolded",
    )

    context: Context = Field(
        "off", description="what the network sees besides its tile: the camera frame around it; lib/context.py"
    )

    # Data and augmentation, training fold only
    folds: int = Field(5, ge=2, le=50, description="stratified folds")
    seed: Seed = Field(0, description="seeds the weights and every augmentation")
    fold_seed: Seed = Field(
        # Runs without the field drew the folds by `seed`
        default_factory=lambda earlier: earlier.get("seed", 0),
        description="seeds the folds; apart from `seed`, so that other weights are validated on the same tiles",
    )
    folds_by: Literal["tile", "group"] = Field(
        "tile",
        description="what a fold keeps whole: a tile, or a group of tiles that show neighbouring or the same ground",
    )
    shift_down: int = Field(32, ge=0, lt=HEIGHT, description="largest random shift along the height, in pixels")
    shift_across: int = Field(64, ge=0, lt=WIDTH, description="largest random shift along the width, in pixels")
    flip: Share = Field(0.0, description="chance of a left-right flip")
    copy_paste: Share = Field(0.5, description="share of training tiles that get 3 to 5 big rocks pasted")
    paste_in_place: bool = Field(False, description="paste a rock where it was cut instead of anywhere")
    general: Share = Field(
        0.0, description="share of the rarest class's tiles that are shifted, rotated, zoomed, sheared"
    )
    randaugment: Share = Field(0.0, description="share of the rarest class's tiles that get a RandAugment policy")
    synthesis: Share = Field(0.0, description="share of training tiles composed from cutouts of all classes")
    cutmix: Share = Field(0.0, description="share of training tiles of which a rectangle shows another tile")
    oversample: int = Field(4, ge=1, le=100, description="how often an epoch shows each tile with big rock")

    # Tiles without labels
    semi: Literal["none", "pseudo", "consistency"] = Field(
        "none",
        description="what is learnt from tiles without labels: nothing; what a teacher, trained before, says of them; "
        "or what the network's own averaged weights say at each epoch's beginning",
    )
    teacher: Name = Field(
        "best",
        description="experiment under the same --runs folder that teaches semi=pseudo, each fold the same fold",
    )
    unlabelled: float = Field(
        1.0, ge=0.01, le=10, description="tiles without labels that an epoch shows for each one with labels"
    )
    sure: Share = Field(0.8, description="share of each class's pixels, the surest, whose pseudo-labels count")

    # Loss: a weighted sum
    cross_entropy: Weight = Field(1.0, description="weight of sparse categorical cross-entropy")
    dice: Weight = Field(0.0, description="weight of the dice loss")
    focal: Weight = Field(0.0, description="weight of categorical focal cross-entropy")
    ignore_background: bool = Field(True, description="leave class 0 out of the loss, as the score does")
    class_weights: Literal["none", "inverse", "given"] = Field(
        "none", description="none, inverse (capped inverse frequency) or given"
    )
    class_weight_cap: float = Field(10.0, ge=1, le=1e6, description="largest class weight of class_weights=inverse")
    given_weights: tuple[Weight, ...] = Field(
        (1.0,) * len(CLASSES), description="class weights of class_weights=given, one for each class"
    )
    prior: Literal["shown", "fold"] = Field(
        "shown",
        description="how frequent the kept network takes classes to be: as training shows them (oversampled, pasted, "
        "weighted), or as they are in the training fold",
    )

    # Training
    epochs: Epochs = Field(200, description="most epochs; early stopping usually ends before")
    batch_size: int = Field(32, ge=1, le=10_000, description="tiles per step")
    learning_rate: float = Field(1e-3, ge=0, le=10, description="Adam's initial step size")
    weight_decay: float = Field(4e-3, ge=0, le=10, description="decoupled weight decay (AdamW)")
    schedule: Literal["plateau", "cosine"] = Field(
        "plateau",
        description="lower the learning rate when the score stalls and stop early, or let it rise for the first "
        "twentieth and then fall to zero, by a cosine over all epochs",
    )
    average: float = Field(
        0.0, ge=0, lt=1, description="momentum of averaged weights, which are validated and kept; 0: the last ones"
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="the epoch whose weights are kept: the best on the validation fold, or the last, which was not "
        "chosen by the tiles that score it",
    )
    plateau_patience: Epochs = Field(15, description="epochs without a better score before the learning rate falls")
    plateau_factor: float = Field(0.1, ge=0.001, le=0.999, description="what the learning rate is multiplied by then")
    patience: Epochs = Field(30, description="epochs without a better score before training stops")
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = Field(
        "float32",
        description="arithmetic; mixed_float16 for a T4, mixed_bfloat16 for newer GPUs and processors with AVX512_BF16"
        "; logits stay float32",
    )

    # Inference
    predict_background: bool = Field(
        False, description="may predict class 0, which the score counts as a fifth, wrong class"
    )
    views: tuple[Annotated[str, AfterValidator(_view)], ...] = Field(
        ("identity", "hflip", "shift(0,8)", "shift(0,-8)", "shift(4,0)", "shift(-4,0)"),
        min_length=1,
        max_length=100,
        description="views that --tta averages: operations of lib/views.py's table, joined by +",
    )

    neighbours: Neighbours = Field(
        "off", description="whether the labels of a tile's neighbours in its camera frame count, too: lib/neighbours.py"
    )

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        if HEIGHT % 2**self.depth or WIDTH % 2**self.depth:
            raise ValueError(f"depth={self.depth}: a tile of {HEIGHT}x{WIDTH} does not divide by {2**self.depth}")
        if self.architecture == "compact" and (self.nesting > 1 or self.transformer != "none"):
            raise ValueError("architecture=compact: one network without transformers; nesting=1 transformer=none")
        if self.context != "off" and (self.architecture != "compact" or self.depth != 4):
            raise ValueError(f"context={self.context}: needs architecture=compact depth=4")
        if self.upscale != "bilinear" and self.architecture != "compact":
            raise ValueError(f"upscale={self.upscale}: needs architecture=compact")
        if self.semi != "none" and not self.ignore_background:
            raise ValueError(
                f"semi={self.semi}: a pixel that nobody is sure of has no label; needs ignore_background=True"
            )
        if self.semi == "pseudo" and self.teacher == self.experiment:
            raise ValueError(f"teacher={self.teacher}: is the experiment itself; name an earlier one, or this one anew")
        if not any((self.cross_entropy, self.dice, self.focal)):
            raise ValueError("cross_entropy, dice, focal: all weights are 0, but one must be positive")
        if self.class_weights == "given" and len(self.given_weights) != len(CLASSES):
            raise ValueError(f"given_weights: {len(self.given_weights)} numbers for {len(CLASSES)} classes")
        return self

    def replace(self, **changes: object) -> Config:
        """A copy with typed changes. Raises UserError for an unknown field or a wrong value."""
        return self.check({**dict(self), **changes}, "config", ADVICE)

    def override(self, assignments: list[str]) -> Config:
        """A copy with `key=value` texts applied, each converted to the type of its field.

        Tuples are comma-separated (`dspp_rates=1,2,4`; `dspp_rates=` is empty). Raises UserError.
        """
        values = dict(self)
        for text in assignments:
            name, equals, value = text.partition("=")
            if not equals:
                raise UserError(f"--set {text}: write key=value")
            if name not in type(self).model_fields:
                near = difflib.get_close_matches(name, type(self).model_fields, 1, 0)[0]
                raise UserError(f"--set {text}: no such config field; did you mean {near}?")
            values[name] = items(value) if isinstance(getattr(self, name), tuple) else value
        return self.check(values, "--set", ADVICE, strict=False)

    def differences(self, other: Config) -> dict[str, object]:
        """The fields of `self` whose values differ from `other`'s."""
        return {name: value for name, value in self if value != getattr(other, name)}

    def chosen_folds(self, text: str) -> tuple[int | None, ...]:
        """The folds that `--fold` names: numbers, comma-separated, `all`, or `none` (no validation fold: None).

        Raises UserError.
        """
        if text == "none":
            return (None,)
        folds = {str(fold): fold for fold in range(self.folds)}
        chosen = folds.keys() if text == "all" else set(text.split(","))
        if not chosen <= folds.keys():
            raise UserError(f"--fold {text}: choose 0 to {self.folds - 1}, all or none")
        return tuple(fold for name, fold in folds.items() if name in chosen)

    def hash(self) -> str:
        """Twelve hex digits of the configuration's SHA-256."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]


def assignment(name: str, value: object) -> str:
    """The `name=value` text that `Config.override` reads back; floats to three significant digits."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return f"{name}=" + (",".join(map(str, value)) if isinstance(value, tuple) else text)


def items(text: str) -> tuple[str, ...]:
    """The items of a comma-separated text; a comma inside brackets belongs to its item: shift(0,8)."""
    return tuple(re.split(r",(?![^(]*\))", text)) if text else ()
