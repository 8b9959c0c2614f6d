"""Each experiment of the report as its differences from the one before (report, section 4, Table 1)."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from lib.config import Config
from lib.console import UserError

# What --tiny changes where an experiment does not say otherwise, for a laptop. Smaller batches make more steps of the
# few epochs that it can afford.
TINY: dict[str, object] = dict(width=8, epochs=30, batch_size=16, plateau_patience=6)


@dataclass(frozen=True)
class Experiment:
    """What it is, which experiment it starts from, the fields that differ from it, and those that --tiny sets."""

    name: str
    summary: str
    base: str | None
    changes: dict[str, object]
    tiny: dict[str, object] = field(default_factory=lambda: TINY)


_FIRST = Experiment(
    "first",
    "one U-Net of depth three",
    None,
    dict(
        nesting=1,
        depth=3,
        dspp_rates=(),
        attention="none",
        shift_down=0,
        shift_across=0,
        copy_paste=0.0,
        oversample=1,
        ignore_background=False,
        predict_background=True,
    ),
)

EXPERIMENTS: dict[str, Experiment] = {
    item.name: item
    for item in (
        _FIRST,
        Experiment(
            "second", "two U-Nets, the second reads the first one's features and skips", "first", dict(nesting=2)
        ),
        Experiment("third", "depth four", "second", dict(depth=4)),
        Experiment(
            "fourth",
            "copy-paste of big rocks, two-dimensional shift, oversampling",
            "third",
            dict(copy_paste=0.5, shift_down=32, shift_across=64, oversample=4),
        ),
        Experiment(
            "fifth",
            "dilated spatial pyramid pooling, and background left out of the loss",
            "fourth",
            dict(dspp_rates=(6, 12, 18), ignore_background=True, predict_background=False),
        ),
        Experiment(
            "sixth", "transformer blocks before and after both bottlenecks", "fifth", dict(transformer="bottleneck")
        ),
        Experiment(
            "seventh",
            "dual attention in place of the transformers",
            "sixth",
            dict(transformer="none", attention="dual"),
        ),
        # The report credits the pyramid for the jump from the fourth to the fifth. Background left the loss at the same
        # experiment; these two tell the changes apart.
        Experiment(
            "fourth_ignoring",
            "the fourth with background left out of loss and prediction",
            "fourth",
            dict(ignore_background=True, predict_background=False),
        ),
        Experiment(
            "fifth_counting",
            "the fifth with background in loss and prediction",
            "fifth",
            dict(ignore_background=False, predict_background=True),
        ),
        Experiment(
            "compact",
            "a compact residual network, a cosine schedule, averaged weights, little augmentation",
            "seventh",
            dict(
                architecture="compact",
                nesting=1,
                dspp_rates=(1, 2, 3),
                attention="none",
                shift_down=8,
                shift_across=16,
                flip=0.5,
                copy_paste=0.2,
                schedule="cosine",
                average=0.995,
                learning_rate=2e-3,
                weight_decay=0.02,
                batch_size=16,
                epochs=60,
                views=("identity", "hflip"),
                width=64,
            ),
            tiny=dict(width=32, epochs=12),
        ),
        Experiment(
            "best",
            "the compact network, faster, whose predictions heed the labels of neighbouring tiles",
            "compact",
            dict(upscale="subpixel", keep="last", prior="fold", neighbours="labels"),
            tiny=dict(width=24, dspp_rates=(), epochs=12),
        ),
        Experiment(
            "best_pseudo",
            "taught by the best: pseudo-labels on tiles without labels",
            "best",
            dict(semi="pseudo"),
            tiny=dict(width=24, dspp_rates=(), epochs=6),
        ),
        Experiment(
            "best_consistency",
            "the best, which is to say the same of tiles without labels in other guises",
            "best",
            dict(semi="consistency", cutmix=0.5, dropout=0.1),
            tiny=dict(width=24, dspp_rates=(), epochs=6),
        ),
        # What others published of this competition: the smallest network among their best
        Experiment(
            "published",
            "one squeeze-and-excitation U-Net of 0.48 M parameters, CutMix, classes weighted by inverse frequency",
            "first",
            dict(
                depth=2,
                squeeze=True,
                flip=0.5,
                cutmix=0.5,
                class_weights="inverse",
                ignore_background=True,
                predict_background=False,
            ),
            tiny=dict(epochs=30, batch_size=16, plateau_patience=6),
        ),
        # The report's future work (section 7)
        Experiment("three_unets", "three nested U-Nets", "seventh", dict(nesting=3)),
        Experiment("depth_five", "five poolings", "seventh", dict(depth=5)),
        Experiment(
            "spare_transformer",
            "one transformer block at the coarsest level, slow and often skipped",
            "seventh",
            dict(transformer="coarsest", transformer_rate=0.1, stochastic_depth=0.2),
        ),
    )
}


def make_config(name: str, tiny: bool = False) -> Config:
    """The full Config of an experiment; another `seed` leaves its folds as they are.

    Raises UserError for an unknown name, naming the nearest.
    """
    if name not in EXPERIMENTS:
        near = difflib.get_close_matches(name, EXPERIMENTS, 1, 0)[0]
        raise UserError(f"{name}: no such experiment; did you mean {near}? `python train.py --list` shows all")
    experiment = EXPERIMENTS[name]
    base = make_config(experiment.base) if experiment.base else Config(fold_seed=0)
    config = base.replace(**experiment.changes, experiment=name)
    return config.replace(**experiment.tiny) if tiny else config
