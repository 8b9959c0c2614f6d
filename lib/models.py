"""Config -> keras.Model: one to three nested U-Nets (report, section 3.2), or a compact residual network."""

from __future__ import annotations

import keras
from keras import layers

from lib import blocks
from lib.config import Config
from lib.console import UserError
from lib.context import CHANNELS
from lib.task import CLASSES, GREY_MEAN, GREY_SPREAD, HEIGHT, WIDTH

RESIDUAL_WIDTHS = (1, 2, 4, 6)  # filters of the compact network's levels, as multiples of `width`; deeper: the last
SURROUNDING_WIDTHS = (2, 3, 4)  # the same, of the network that looks at the tile's surroundings
RAW_FILTERS = 8  # of the raw tile, for the compact network's last step


def build_model(config: Config, height: int | None = HEIGHT, width: int | None = WIDTH) -> keras.Model:
    """The network of a config, with fresh weights seeded by `config.seed`.

    Input: grey tiles (B, height, width), uint8 or float 0..255; scaling is part of the model; with context=frame
    (B, height, width, 3), as lib.context.beside has them. Output: (B, height, width, 5) float32 logits. `height` and
    `width` may be None: any multiples of 2^depth.

    Raises UserError when the tile does not divide by 2^depth.
    """
    step = 2**config.depth
    for size in (height, width):
        if size is not None and size % step:
            raise UserError(f"depth={config.depth}: a side of {size} does not divide by {step}; choose a smaller depth")
    keras.utils.set_random_seed(config.seed)
    policy = keras.dtype_policies.get(config.precision)
    alone = config.context == "off"
    tiles = keras.Input((height, width) if alone else (height, width, CHANNELS), name="tiles")
    # Fixed numbers: nothing has to be fitted or shipped
    features = layers.Rescaling(1 / GREY_SPREAD, offset=-GREY_MEAN / GREY_SPREAD, dtype=policy, name="scaling")(
        tiles[..., None] if alone else tiles[..., :2]
    )
    if not alone:  # where the frame is known at all
        known = layers.Rescaling(1 / 255, dtype=policy, name="known_scaling")(tiles[..., 2:])
        features = layers.Concatenate(dtype=policy, name="frame")([features, known])
    features = ARCHITECTURES[config.architecture](features, config, policy)
    logits = layers.Conv2D(len(CLASSES), 1, dtype="float32", name="logits")(features)
    return keras.Model(tiles, logits, name=config.experiment)


def _compact(features, config: Config, policy):
    """One small encoder and decoder of residual blocks, whose finest map has half the tile's resolution.

    The filters are `width` times RESIDUAL_WIDTHS from the finest map on; at the coarsest one attention and spatial
    pyramid follow. The last step, back to full resolution, sees the raw tile again: with upscale=bilinear at full
    resolution, with upscale=subpixel folded, as the network reads it. With context=frame, features of the tile's
    surroundings join at the coarsest.
    """
    around = None
    if config.context != "off":
        around, features = _surroundings(features[..., 1:], config, policy), features[..., :1]
    outputs = config.width // 2 or 1

    def convolved(number, name):
        return layers.Conv2D(number, 3, padding="same", activation="relu", dtype=policy, name=name)

    raw = convolved(RAW_FILTERS, "raw")(features) if config.upscale == "bilinear" else None
    widths = [config.width * RESIDUAL_WIDTHS[min(level, len(RESIDUAL_WIDTHS) - 1)] for level in range(config.depth)]
    folded = features = blocks.Fold(2, dtype=policy, name="fold")(features)
    skips = []
    for level, filters in enumerate(widths):
        if level:
            features = layers.MaxPooling2D(dtype=policy, name=f"pool_{level}")(features)
        if level == config.depth - 1 and around is not None:
            features = layers.Concatenate(dtype=policy, name="concat_surroundings")([features, around])
        dropout = config.dropout if level == config.depth - 1 else 0.0
        features = blocks.ResidualBlock(filters, dropout, dtype=policy, name=f"down_{level}")(features)
        skips.append(features)
    if config.attention != "none":
        features = blocks.DualAttention(config.attention, name="attention", dtype=policy)(features)
    if config.dspp_rates:
        features = blocks.SpatialPyramid(widths[-1], config.dspp_rates, name="pyramid", dtype=policy)(features)
    for level in reversed(range(config.depth - 1)):
        features = layers.UpSampling2D(interpolation="bilinear", dtype=policy, name=f"upsample_{level}")(features)
        features = layers.Concatenate(dtype=policy, name=f"concat_{level}")([features, skips[level]])
        features = blocks.ResidualBlock(widths[level], dtype=policy, name=f"up_{level}")(features)
    if raw is None:
        features = layers.Concatenate(dtype=policy, name="concat_folded")([features, folded])
        return blocks.Unfold(2, dtype=policy, name="unfold")(convolved(4 * outputs, "last")(features))
    features = layers.UpSampling2D(interpolation="bilinear", dtype=policy, name="unfold")(features)
    features = layers.Concatenate(dtype=policy, name="concat_raw")([features, raw])
    return convolved(outputs, "last")(features)


def _surroundings(window, config: Config, policy):
    """What lies around a tile: features (B, H/16, W/16, C) of the tile's own part of its window (B, H, W, 2).

    A small U-Net on the window folded 4 x 4, which is as large as the tile and shows ZOOM times its height and width.
    """
    widths = [config.width * factor for factor in SURROUNDING_WIDTHS]
    features = blocks.Fold(4, dtype=policy, name="around_fold")(window)
    skips = []
    for level, filters in enumerate(widths):
        if level:
            features = layers.MaxPooling2D(dtype=policy, name=f"around_pool_{level}")(features)
        features = blocks.ResidualBlock(filters, dtype=policy, name=f"around_down_{level}")(features)
        skips.append(features)
    for level in reversed(range(len(widths) - 1)):
        features = layers.UpSampling2D(interpolation="bilinear", dtype=policy, name=f"around_upsample_{level}")(
            features
        )
        features = layers.Concatenate(dtype=policy, name=f"around_concat_{level}")([features, skips[level]])
        if level == 0:  # the tile is a quarter of the window: the middle half of its middle half
            features = blocks.Middle(dtype=policy, name="around_middle")(features)
        features = blocks.ResidualBlock(widths[level], dtype=policy, name=f"around_up_{level}")(features)
    return blocks.Middle(dtype=policy, name="around_tile")(features)


def _nested(features, config: Config, policy):
    """The report's U-Nets, each of which reads the features and skips of the one before."""
    earlier_skips: list = [None] * config.depth
    for number in range(1, config.nesting + 1):
        features, earlier_skips = _unet(features, earlier_skips, config, number, policy)
    return features


def _unet(features, earlier_skips, config: Config, number: int, policy):
    """One U-Net: its full-resolution features, and its encoder's maps by level: skips of the next U-Net, too."""

    def named(kind, level=None):
        return f"unet{number}_{kind}" + ("" if level is None else f"_{level}")

    skips = []
    for level in range(config.depth):
        features = blocks.ConvBlock(
            config.width << level, squeeze=config.squeeze, name=named("down", level), dtype=policy
        )(features)
        skips.append(features)
        features = layers.MaxPooling2D(dtype=policy, name=named("pool", level))(features)

    features = _bottleneck(features, config, number == config.nesting, named, policy)

    for level in reversed(range(config.depth)):
        features = layers.UpSampling2D(interpolation="nearest", dtype=policy, name=named("upsample", level))(features)
        sources = [features, skips[level]] + ([] if earlier_skips[level] is None else [earlier_skips[level]])
        features = layers.Concatenate(dtype=policy, name=named("concat", level))(sources)
        features = blocks.ConvBlock(
            config.width << level, squeeze=config.squeeze, name=named("up", level), dtype=policy
        )(features)
    return features, skips


def _bottleneck(features, config: Config, last: bool, named, policy):
    """[transformer] -> convolution block -> [transformer] -> attention -> spatial pyramid: the report's order."""
    drop = config.stochastic_depth
    if config.transformer == "bottleneck":
        memory = features = blocks.TransformerEncoder(drop, name=named("transformer_encoder"), dtype=policy)(features)
    features = blocks.ConvBlock(
        config.width << config.depth, config.dropout, config.squeeze, name=named("bottleneck"), dtype=policy
    )(features)
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


ARCHITECTURES = {"unet": _nested, "compact": _compact}
"""From scaled tiles (B, H, W, 1), the config and a dtype policy to features at full resolution, by its name."""
