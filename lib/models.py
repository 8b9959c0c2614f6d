"""Config -> keras.Model: one to three nested U-Nets (report, section 3.2)."""

from __future__ import annotations

import keras
from keras import layers

from lib import blocks
from lib.config import Config
from lib.console import UserError
from lib.task import CLASSES, GREY_MEAN, GREY_SPREAD, HEIGHT, WIDTH


def build_model(config: Config, height: int | None = HEIGHT, width: int | None = WIDTH) -> keras.Model:
    """The network of a config, with fresh weights seeded by `config.seed`.

    Input: grey tiles (B, height, width), uint8 or float 0..255; scaling is part of the model. Output:
    (B, height, width, 5) float32 logits. `height` and `width` may be None: any multiples of 2^depth.

    Raises UserError when the tile does not divide by 2^depth.
    """
    step = 2**config.depth
    for size in (height, width):
        if size is not None and size % step:
            raise UserError(f"depth={config.depth}: a side of {size} does not divide by {step}; choose a smaller depth")
    keras.utils.set_random_seed(config.seed)
    policy = keras.dtype_policies.get(config.precision)
    tiles = keras.Input((height, width), name="tiles")
    # Fixed numbers: nothing has to be fitted or shipped
    features = layers.Rescaling(1 / GREY_SPREAD, offset=-GREY_MEAN / GREY_SPREAD, dtype=policy, name="scaling")(
        tiles[..., None]
    )
    earlier_skips: list = [None] * config.depth
    for number in range(1, config.nesting + 1):
        features, earlier_skips = _unet(features, earlier_skips, config, number, policy)
    logits = layers.Conv2D(len(CLASSES), 1, dtype="float32", name="logits")(features)
    return keras.Model(tiles, logits, name=config.experiment)


def _unet(features, earlier_skips, config: Config, number: int, policy):
    """One U-Net: its full-resolution features, and its encoder's maps by level: skips of the next U-Net, too."""

    def named(kind, level=None):
        return f"unet{number}_{kind}" + ("" if level is None else f"_{level}")

    skips = []
    for level in range(config.depth):
        features = blocks.ConvBlock(config.width << level, name=named("down", level), dtype=policy)(features)
        skips.append(features)
        features = layers.MaxPooling2D(dtype=policy, name=named("pool", level))(features)

    features = _bottleneck(features, config, number == config.nesting, named, policy)

    for level in reversed(range(config.depth)):
        features = layers.UpSampling2D(interpolation="nearest", dtype=policy, name=named("upsample", level))(features)
        sources = [features, skips[level]] + ([] if earlier_skips[level] is None else [earlier_skips[level]])
        features = layers.Concatenate(dtype=policy, name=named("concat", level))(sources)
        features = blocks.ConvBlock(config.width << level, name=named("up", level), dtype=policy)(features)
    return features, skips


def _bottleneck(features, config: Config, last: bool, named, policy):
    """[transformer] -> convolution block -> [transformer] -> attention -> spatial pyramid: the report's order."""
    drop = config.stochastic_depth
    if config.transformer == "bottleneck":
        memory = features = blocks.TransformerEncoder(drop, name=named("transformer_encoder"), dtype=policy)(features)
    features = blocks.ConvBlock(config.width << config.depth, config.dropout, name=named("bottleneck"), dtype=policy)(
        features
    )
    if config.transformer == "bottleneck":
        features = blocks.TransformerDecoder(drop, name=named("transformer_decoder"), dtype=policy)(features, memory)
    elif config.transformer == "coarsest" and last:
        features = blocks.TransformerEncoder(drop, name=named("transformer_encoder"), dtype=policy)(features)
    if config.attention != "none":
        features = blocks.DualAttention(config.attention, name=named("attention"), dtype=policy)(features)
    if config.dspp_rates:
        filters = config.width << (config.depth - 1)
        features = blocks.SpatialPyramid(filters, config.dspp_rates, name=named("pyramid"), dtype=policy)(features)
    return features
