"""Building blocks as Keras layers: convolution, residual block, dual attention, spatial pyramid, transformers.

All maps are (batch, height, width, channels) in the layer's compute dtype. The layers run on any Keras backend and
know nothing of the map's size, so a model takes tiles of any size its pooling divides.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

# Keras's 0.99 makes the stored statistics lag by many epochs at 35 to 70 steps each: validation then reads junk.
BATCH_NORM_MOMENTUM = 0.9


class Box(NamedTuple):
    """What a mean takes in around a pixel, `size` rows and columns, on a grid of cells of `cell` rows and columns."""

    size: tuple[int, int]
    cell: tuple[int, int]


class Block(layers.Layer):
    """A layer whose constructor arguments are its config.

    `box`: what it takes means over; None: the whole map, which is a tile's. lib/local.py sets it for frames.
    """

    box: Box | None = None

    def __init__(self, name=None, dtype=None, **arguments):
        super().__init__(name=name, dtype=dtype)
        self._arguments = arguments

    def get_config(self):
        return {**super().get_config(), **self._arguments}

    @classmethod
    def from_config(cls, config):
        return cls(**{key: value for key, value in config.items() if key != "trainable"})


SQUEEZE = 8  # squeeze and excitation: channels to each one that they are squeezed into


def _squeeze_and_excite(filters: int, policy) -> list[layers.Layer]:
    """1x1 convolutions to an eighth of the channels and back, with ReLU and sigmoid (Hu et al. 2018, figure 3)."""
    squeezed = max(1, filters // SQUEEZE)
    return [
        layers.Conv2D(squeezed, 1, activation="relu", dtype=policy, name="squeeze"),
        layers.Conv2D(filters, 1, activation="sigmoid", dtype=policy, name="excite"),
    ]


def _recalibrated(features, squeeze, excite, box):
    """(B, H, W, C) -> (B, H, W, C): each channel times what its and the others' means say."""
    return features * _spread(excite(squeeze(_means(features, box))), box)


def _means(x, box: Box | None):
    """Means of a map (B, H, W, C): of the whole (B, 1, 1, C), or for each cell over the box around it (B, h, w, C).

    A box that would reach beyond the map is moved inside, so that on a map no larger than a box, all are of the whole.
    """
    if box is None:
        return ops.mean(x, axis=(1, 2), keepdims=True)
    (batch, height, width, channels), (down, across) = ops.shape(x), box.cell
    x = ops.mean(ops.reshape(x, (batch, height // down, down, width // across, across, channels)), axis=(2, 4))
    for axis, (side, step) in enumerate(zip(*box), start=1):
        count = ops.shape(x)[axis]
        size = ops.minimum(side // step, count)
        # Differences of running sums, in a precision that holds them
        sums = ops.cumsum(ops.cast(x, "float32"), axis=axis)
        sums = ops.concatenate([ops.zeros_like(ops.take(sums, [0], axis=axis)), sums], axis=axis)
        first = ops.maximum(ops.minimum(ops.arange(count) - size // 2, count - size), 0)
        inside = ops.take(sums, first + size, axis=axis) - ops.take(sums, first, axis=axis)
        x = ops.cast(inside / ops.cast(size, "float32"), x.dtype)
    return x


def _spread(values, box: Box | None):
    """What follows from `_means`, for every pixel: (B, h, w, C) -> (B, H, W, C); of the whole map, as it is."""
    if box is None:
        return values
    return ops.repeat(ops.repeat(values, box.cell[0], axis=1), box.cell[1], axis=2)


@keras.saving.register_keras_serializable("mars")
class ConvBlock(Block):
    """Two times convolution 3x3, batch normalisation, ReLU (Ronneberger et al. 2015, with batch normalisation).

    (B, H, W, C) -> (B, H, W, filters). `dropout` acts between the two convolutions, on whole maps. `squeeze`: squeeze
    and excitation at the end (Hu et al. 2018).
    """

    def __init__(self, filters: int, dropout: float = 0.0, squeeze: bool = False, **base):
        super().__init__(filters=filters, dropout=dropout, squeeze=squeeze, **base)
        self.excitation = _squeeze_and_excite(filters, self.dtype_policy) if squeeze else []
        self.steps = []
        for number in range(2):
            self.steps += [
                layers.Conv2D(
                    filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal", dtype=self.dtype_policy
                ),
                layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, dtype=self.dtype_policy),
                layers.ReLU(dtype=self.dtype_policy),
            ]
            if number == 0 and dropout:
                self.steps.append(layers.SpatialDropout2D(dropout, dtype=self.dtype_policy))

    def build(self, shape):
        for step in self.steps:
            step.build(shape)
            shape = step.compute_output_shape(shape)
        pooled = (shape[0], 1, 1, shape[-1])
        for layer in self.excitation:
            layer.build(pooled)
            pooled = layer.compute_output_shape(pooled)

    def call(self, x, training=None):
        for step in self.steps:
            stateful = isinstance(step, (layers.BatchNormalization, layers.SpatialDropout2D))
            x = step(x, training=training) if stateful else step(x)
        if not self.excitation:
            return x
        squeeze, excite = self.excitation
        return _recalibrated(x, squeeze, excite, self.box)

    def compute_output_shape(self, shape):
        return (*shape[:-1], self._arguments["filters"])


@keras.saving.register_keras_serializable("mars")
class ResidualBlock(Block):
    """A ConvBlock without the last ReLU, recalibrated by squeeze and excitation, plus the input, ReLU.

    He et al. 2016, figure 2, with Hu et al. 2018, figure 3. The input passes a 1x1 convolution where it has another
    number of channels.
    (B, H, W, C) -> (B, H, W, filters). `dropout` acts between the two convolutions, on whole maps.
    """

    def __init__(self, filters: int, dropout: float = 0.0, **base):
        super().__init__(filters=filters, dropout=dropout, **base)
        policy = self.dtype_policy

        def convolution(size, name):
            return layers.Conv2D(
                filters, size, padding="same", use_bias=False, kernel_initializer="he_normal", dtype=policy, name=name
            )

        def norm(name):
            return layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, dtype=policy, name=name)

        self.first, self.first_norm = convolution(3, "first"), norm("first_norm")
        self.drop = layers.SpatialDropout2D(dropout, dtype=policy, name="drop")
        self.second, self.second_norm = convolution(3, "second"), norm("second_norm")
        self.squeeze, self.excite = _squeeze_and_excite(filters, policy)
        self.shortcut = convolution(1, "shortcut")
        self.projects = False

    def build(self, shape):
        filters = self._arguments["filters"]
        inside, pooled = (*shape[:-1], filters), (shape[0], 1, 1, filters)
        self.projects = shape[-1] != filters
        for layer, its_shape in (
            (self.first, shape), (self.first_norm, inside), (self.second, inside), (self.second_norm, inside),
            (self.squeeze, pooled), (self.excite, (shape[0], 1, 1, self.squeeze.filters)),
        ):  # fmt: skip
            layer.build(its_shape)
        if self.projects:
            self.shortcut.build(shape)

    def call(self, x, training=None):
        features = ops.relu(self.first_norm(self.first(x), training=training))
        features = self.second_norm(self.second(self.drop(features, training=training)), training=training)
        features = _recalibrated(features, self.squeeze, self.excite, self.box)
        return ops.relu(features + (self.shortcut(x) if self.projects else x))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self._arguments["filters"])


@keras.saving.register_keras_serializable("mars")
class Fold(Block):
    """Folds squares of `size` x `size` pixels into channels: (B, H, W, C) -> (B, H/size, W/size, C * size^2).

    Nothing is lost, and what follows costs a fraction (pixel unshuffle of Shi et al. 2016).
    """

    def __init__(self, size: int = 2, **base):
        super().__init__(size=size, **base)

    def call(self, x):
        size, (batch, height, width, channels) = self._arguments["size"], ops.shape(x)
        x = ops.reshape(x, (batch, height // size, size, width // size, size, channels))
        return ops.reshape(
            ops.transpose(x, (0, 1, 3, 2, 4, 5)), (batch, height // size, width // size, channels * size * size)
        )

    def compute_output_shape(self, shape):
        size = self._arguments["size"]
        height, width = (side and side // size for side in shape[1:3])
        return (shape[0], height, width, shape[3] * size * size)


@keras.saving.register_keras_serializable("mars")
class Unfold(Block):
    """Takes `Fold` back: (B, H, W, C * size^2) -> (B, H * size, W * size, C).

    After a convolution it is a step up in resolution whose arithmetic happens at the lower one (Shi et al. 2016).
    """

    def __init__(self, size: int = 2, **base):
        super().__init__(size=size, **base)

    def call(self, x):
        size, (batch, height, width, channels) = self._arguments["size"], ops.shape(x)
        x = ops.reshape(x, (batch, height, width, size, size, channels // size**2))
        return ops.reshape(
            ops.transpose(x, (0, 1, 3, 2, 4, 5)), (batch, height * size, width * size, channels // size**2)
        )

    def compute_output_shape(self, shape):
        size = self._arguments["size"]
        height, width = (side and side * size for side in shape[1:3])
        return (shape[0], height, width, shape[3] // size**2)


@keras.saving.register_keras_serializable("mars")
class Middle(Block):
    """The middle half of the rows and columns: (B, H, W, C) -> (B, H/2, W/2, C)."""

    def call(self, x):
        height, width = ops.shape(x)[1:3]
        return x[:, height // 4 : height // 4 + height // 2, width // 4 : width // 4 + width // 2]

    def compute_output_shape(self, shape):
        return (shape[0], *(side and side // 2 for side in shape[1:3]), shape[3])


@keras.saving.register_keras_serializable("mars")
class DualAttention(Block):
    """Dual attention unit of MIRNet (Zamir et al. 2020, section 3.2): channel and spatial recalibration, residual.

    Two 3x3 convolutions; channel branch: global average pool, 1x1 to C/8, ReLU, 1x1 to C, sigmoid, multiply; spatial
    branch: channel mean and maximum, 5x5 convolution to one map, sigmoid, multiply; concatenation, 1x1, plus the input.

    Args:
        branches: "dual", or "channel" or "spatial" alone.

    (B, H, W, C) -> (B, H, W, C).
    """

    REDUCTION = 8

    def __init__(self, branches: str = "dual", **base):
        super().__init__(branches=branches, **base)
        if branches not in ("dual", "channel", "spatial"):
            raise ValueError(f"branches={branches!r}: dual, channel or spatial")
        self.channel = branches in ("dual", "channel")
        self.spatial = branches in ("dual", "spatial")

    def build(self, shape):
        channels = shape[-1]
        policy = self.dtype_policy
        self.before = keras.Sequential(
            [
                layers.Conv2D(channels, 3, padding="same", activation="relu", dtype=policy),
                layers.Conv2D(channels, 3, padding="same", dtype=policy),
            ],
            name="before",
        )
        self.before.build(shape)
        if self.channel:
            squeezed = max(1, channels // self.REDUCTION)
            self.excite = keras.Sequential(
                [
                    layers.GlobalAveragePooling2D(keepdims=True, dtype=policy),
                    layers.Conv2D(squeezed, 1, activation="relu", dtype=policy),
                    layers.Conv2D(channels, 1, activation="sigmoid", dtype=policy),
                ],
                name="excite",
            )
            self.excite.build(shape)
        if self.spatial:
            self.where = layers.Conv2D(1, 5, padding="same", activation="sigmoid", dtype=policy, name="where")
            self.where.build((*shape[:-1], 2))
        self.merge = layers.Conv2D(channels, 1, dtype=policy, name="merge")
        self.merge.build((*shape[:-1], channels * (self.channel + self.spatial)))

    def call(self, x):
        features = self.before(x)
        branches = []
        if self.channel:
            if self.box is None:
                gates = self.excite(features)
            else:
                gates = _means(features, self.box)
                for layer in self.excite.layers[1:]:  # the first one pools the whole map
                    gates = layer(gates)
            branches.append(features * _spread(gates, self.box))
        if self.spatial:
            summary = ops.concatenate(
                [ops.mean(features, axis=-1, keepdims=True), ops.max(features, axis=-1, keepdims=True)], axis=-1
            )
            branches.append(features * self.where(summary))
        return x + self.merge(ops.concatenate(branches, axis=-1))

    def compute_output_shape(self, shape):
        return shape


@keras.saving.register_keras_serializable("mars")
class SpatialPyramid(Block):
    """Dilated spatial pyramid pooling (DeepLabV3+, Chen et al. 2018, section 3.1).

    Image pooling, a 1x1 convolution and one 3x3 convolution per dilation rate side by side, each `filters` wide with
    batch normalisation and ReLU; concatenated, then 1x1 to `filters`.

    A rate as large as the map sees only its centre tap: on a 4x8 map rates above 7 add no context. Where the map is
    larger than a tile's, `box`, such taps still are left out: training has never shown them anything.

    (B, H, W, C) -> (B, H, W, filters).
    """

    def __init__(self, filters: int, rates: tuple[int, ...], **base):
        super().__init__(filters=filters, rates=list(rates), **base)
        policy = self.dtype_policy

        def convolution(size, rate, name):
            return keras.Sequential(
                [
                    layers.Conv2D(
                        filters, size, dilation_rate=rate, padding="same", use_bias=False,
                        kernel_initializer="he_normal", dtype=policy,
                    ),
                    layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, dtype=policy),
                    layers.ReLU(dtype=policy),
                ],
                name=name,
            )  # fmt: skip

        self.pool = convolution(1, 1, "pool")
        self.branches = [convolution(1, 1, "point")] + [convolution(3, rate, f"rate_{rate}") for rate in rates]
        self.merge = convolution(1, 1, "merge")

    def build(self, shape):
        self.pool.build((shape[0], 1, 1, shape[-1]))
        for branch in self.branches:
            branch.build(shape)
        self.merge.build((*shape[:-1], self._arguments["filters"] * (1 + len(self.branches))))

    def call(self, x, training=None):
        maps = [self._branch(branch, x, training) for branch in self.branches]
        pooled = _spread(self.pool(_means(x, self.box), training=training), self.box)
        maps.append(ops.broadcast_to(pooled, ops.shape(maps[0])))
        return self.merge(ops.concatenate(maps, axis=-1), training=training)

    def _branch(self, branch, x, training):
        convolution, *others = branch.layers
        rate = convolution.dilation_rate[0]
        if self.box is None or max(convolution.kernel_size) == 1:
            return branch(x, training=training)
        rows, columns = (np.array([rate < side, True, rate < side], np.float32) for side in self.box.size)
        kernel = convolution.kernel * (rows[:, None] * columns)[..., None, None]
        x = ops.conv(x, ops.cast(kernel, x.dtype), padding="same", dilation_rate=rate)
        for layer in others:
            x = layer(x, training=training) if isinstance(layer, layers.BatchNormalization) else layer(x)
        return x

    def compute_output_shape(self, shape):
        return (*shape[:-1], self._arguments["filters"])


class _Transformer(Block):
    """What encoder and decoder block share: sublayers with residual, dropout, stochastic depth and post-norm.

    Post-norm, 3 heads, dropout 0.1, feed-forward twice as wide as the channels: the report's team's settings.
    Stochastic depth (Huang et al. 2016) drops a sublayer's output for a whole tile while training.
    """

    HEADS = 3
    DROPOUT = 0.1

    def __init__(self, stochastic_depth: float = 0.0, **base):
        super().__init__(stochastic_depth=stochastic_depth, **base)
        policy = self.dtype_policy
        self.drop = layers.Dropout(self.DROPOUT, dtype=policy)
        # noise_shape: one draw per tile for the whole map
        self.skip = layers.Dropout(stochastic_depth, noise_shape=(None, 1, 1), dtype=policy)

    def _attention(self, name, channels, shape):
        size = max(1, channels // self.HEADS)
        attention = layers.MultiHeadAttention(
            self.HEADS, size, dropout=self.DROPOUT, dtype=self.dtype_policy, name=name
        )
        attention.build(shape, shape)
        return attention

    def _norm(self, name, shape):
        norm = layers.LayerNormalization(epsilon=1e-6, dtype=self.dtype_policy, name=name)
        norm.build(shape)
        return norm

    def _feed_forward(self, channels, shape):
        network = keras.Sequential(
            [
                layers.Dense(2 * channels, activation="gelu", dtype=self.dtype_policy),
                layers.Dense(channels, dtype=self.dtype_policy),
            ],
            name="feed_forward",
        )
        network.build(shape)
        return network

    def _add(self, tokens, update, norm, training):
        return norm(tokens + self.skip(self.drop(update, training=training), training=training))

    @staticmethod
    def _tokens(x):
        """(B, H, W, C) -> (B, H*W, C)"""
        shape = ops.shape(x)
        return ops.reshape(x, (shape[0], shape[1] * shape[2], x.shape[-1]))


@keras.saving.register_keras_serializable("mars")
class TransformerEncoder(_Transformer):
    """Encoder block (Vaswani et al. 2017): positions, self-attention, feed-forward over the pixels of a small map.

    (B, H, W, C) -> (B, H, W, C). Positions are two-dimensional sines and cosines, so any H and W will do.
    """

    def build(self, shape):
        channels, tokens = shape[-1], (shape[0], None, shape[-1])
        self.attend = self._attention("attend", channels, tokens)
        self.norm_attend = self._norm("norm_attend", tokens)
        self.feed_forward = self._feed_forward(channels, tokens)
        self.norm_feed = self._norm("norm_feed", tokens)

    def call(self, x, training=None):
        tokens = self._tokens(x + positions(x))
        tokens = self._add(tokens, self.attend(tokens, tokens, training=training), self.norm_attend, training)
        tokens = self._add(tokens, self.feed_forward(tokens), self.norm_feed, training)
        return ops.reshape(tokens, ops.shape(x))

    def compute_output_shape(self, shape):
        return shape


@keras.saving.register_keras_serializable("mars")
class TransformerDecoder(_Transformer):
    """Decoder block (Vaswani et al. 2017): self-attention, attention to the encoder block's map, feed-forward.

    Args of call:
        x: (B, H, W, C), the bottleneck's map.
        memory: (B, H, W, D), the map that the encoder block put out before the bottleneck.

    Returns (B, H, W, C).
    """

    def build(self, x_shape, memory_shape):
        channels, tokens = x_shape[-1], (x_shape[0], None, x_shape[-1])
        self.attend = self._attention("attend", channels, tokens)
        self.norm_attend = self._norm("norm_attend", tokens)
        self.project = layers.Dense(channels, dtype=self.dtype_policy, name="project")
        self.project.build((memory_shape[0], None, memory_shape[-1]))
        self.cross = self._attention("cross", channels, tokens)
        self.norm_cross = self._norm("norm_cross", tokens)
        self.feed_forward = self._feed_forward(channels, tokens)
        self.norm_feed = self._norm("norm_feed", tokens)

    def call(self, x, memory, training=None):
        tokens = self._tokens(x + positions(x))
        tokens = self._add(tokens, self.attend(tokens, tokens, training=training), self.norm_attend, training)
        memory = self.project(self._tokens(memory))
        tokens = self._add(tokens, self.cross(tokens, memory, training=training), self.norm_cross, training)
        tokens = self._add(tokens, self.feed_forward(tokens), self.norm_feed, training)
        return ops.reshape(tokens, ops.shape(x))

    def compute_output_shape(self, x_shape, memory_shape):
        return x_shape


def positions(x):
    """Sine and cosine positions of a map, (1, H, W, C): half of the channels for the row, half for the column.

    Frequencies as in Vaswani et al. 2017, section 3.5; the dtype of `x`.
    """
    height, width, channels = ops.shape(x)[1], ops.shape(x)[2], x.shape[-1]
    count = (channels + 3) // 4
    frequencies = ops.exp(ops.arange(count, dtype="float32") * (-9.21 / count))

    def waves(length):
        angles = ops.expand_dims(ops.arange(length, dtype="float32"), -1) * frequencies
        return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)

    rows = ops.broadcast_to(waves(height)[:, None], (height, width, 2 * count))
    columns = ops.broadcast_to(waves(width)[None], (height, width, 2 * count))
    grid = ops.concatenate([rows, columns], axis=-1)[None, ..., :channels]
    return ops.cast(grid, x.dtype)
