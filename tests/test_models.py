"""Blocks and models: shapes, parameters, config round trips, what attention, pyramid and transformers do."""

import keras
import numpy as np
import pytest

from lib import blocks
from lib.console import UserError
from lib.experiments import EXPERIMENTS, make_config
from lib.models import build_model

rng = np.random.default_rng(0)
MAP = rng.normal(size=(2, 4, 8, 16)).astype(np.float32)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


BLOCKS = {
    "convolution": (lambda: blocks.ConvBlock(6, 0.2), 6),
    "recalibrated convolution": (lambda: blocks.ConvBlock(16, squeeze=True), 16),
    "dual": (lambda: blocks.DualAttention("dual"), 16),
    "channel": (lambda: blocks.DualAttention("channel"), 16),
    "spatial": (lambda: blocks.DualAttention("spatial"), 16),
    "residual": (lambda: blocks.ResidualBlock(6, 0.2), 6),
    "pyramid": (lambda: blocks.SpatialPyramid(6, (1, 2)), 6),
    "encoder": (lambda: blocks.TransformerEncoder(0.2), 16),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_block_shapes_and_round_trip(name):
    make, filters = BLOCKS[name]
    block = make()
    result = np.asarray(block(MAP))
    assert result.shape == (2, 4, 8, filters)
    assert tuple(block.compute_output_shape(MAP.shape)) == result.shape
    copy = type(block).from_config(block.get_config())
    copy(MAP)
    copy.set_weights(block.get_weights())
    np.testing.assert_array_equal(np.asarray(copy(MAP)), result)


def test_decoder_attends_to_the_encoder_s_map():
    decoder = blocks.TransformerDecoder()
    memory = rng.normal(size=(2, 4, 8, 5)).astype(np.float32)
    result = np.asarray(decoder(MAP, memory))
    assert result.shape == MAP.shape
    assert not np.allclose(np.asarray(decoder(MAP, memory + 1)), result)


def test_positions_tell_every_pixel_of_a_map_apart():
    table = np.asarray(blocks.positions(MAP)).reshape(32, 16)
    assert len(np.unique(table.round(4), axis=0)) == 32


def test_a_pyramid_branch_sees_its_rate_and_image_pooling_sees_all():
    wide = np.zeros((1, 9, 9, 1), np.float32)
    spot = wide.copy()
    spot[0, 0, 0] = 1
    branch = blocks.SpatialPyramid(64, (4,))
    branch(wide)
    kernel = branch.branches[1].layers[0]
    changed = np.abs(np.asarray(kernel(spot)) - np.asarray(kernel(wide))).sum(-1)[0] > 0
    assert set(zip(*np.nonzero(changed))) <= {(0, 0), (0, 4), (4, 0), (4, 4)}
    assert (np.abs(np.asarray(branch(spot)) - np.asarray(branch(wide))) > 0).any(axis=-1).all()


def test_stochastic_depth_skips_a_residual_branch_of_whole_tiles():
    block = blocks.TransformerEncoder(0.5)
    drop = block.skip
    keras.utils.set_random_seed(1)
    kept = np.asarray(drop(np.ones((64, 8, 4), np.float32), training=True))
    per_tile = kept.reshape(64, -1)
    assert (per_tile.min(axis=1) == per_tile.max(axis=1)).all()
    assert 0 < (per_tile[:, 0] == 0).sum() < 64


# The published seventh has 35.0 M parameters. The report leaves open how the second U-Net merges the first one's
# skips and how wide its merging convolutions are; ours concatenates and ends at 34.2 M, 2 % fewer.
PARAMETERS = {
    "first": 1_950_661,
    "second": 4_103_621,
    "third": 16_502_213,
    "fourth": 16_502_213,
    "fifth": 23_592_389,
    "sixth": 31_200_167,
    "seventh": 34_213_547,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(name):
    assert build_model(make_config(name)).count_params() == PARAMETERS[name]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_any_tile_that_the_depth_divides(name):
    model = build_model(make_config(name, tiny=True).replace(width=2), None, None)
    side = 2 ** make_config(name).depth
    logits = model(rng.integers(0, 256, (1, side, 3 * side, *model.input.shape[3:])).astype(np.uint8))
    assert tuple(logits.shape) == (1, side, 3 * side, 5)


def small(**changes):
    return make_config("seventh").replace(width=2, **changes)


def test_a_tile_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="depth=7"):
        build_model(small(depth=7))


def test_logits_are_float32_under_half_precision():
    model = build_model(small(precision="mixed_float16"))
    assert model(np.zeros((1, 64, 128), np.uint8)).dtype == "float32"
    assert model.get_layer("unet1_bottleneck").compute_dtype == "float16"


def test_the_seed_decides_the_weights():
    weights = [build_model(small(seed=seed)).get_weights()[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("changes", "layer"),
    [
        (dict(nesting=3), "unet3_up_0"),
        (dict(depth=5), "unet1_down_4"),
        (dict(transformer="bottleneck"), "unet1_transformer_decoder"),
        (dict(transformer="coarsest"), "unet2_transformer_encoder"),
    ],
)
def test_fields_add_their_layers(changes, layer):
    names = {item.name for item in build_model(small(**changes)).layers}
    assert layer in names
    assert layer not in {item.name for item in build_model(small()).layers}


def test_coarsest_is_one_transformer_block():
    names = [item.name for item in build_model(small(transformer="coarsest")).layers]
    assert [name for name in names if "transformer" in name] == ["unet2_transformer_encoder"]


@pytest.mark.parametrize("changes", [dict(attention="none"), dict(attention="channel"), dict(dspp_rates=())])
def test_fields_take_parameters_away(changes):
    assert build_model(small(**changes)).count_params() < build_model(small()).count_params()


def test_dropout_acts_in_training_only():
    model = build_model(small(dropout=0.5))
    tile = rng.integers(0, 256, (1, 64, 128)).astype(np.uint8)
    block = model.get_layer("unet1_bottleneck")
    assert any(isinstance(step, keras.layers.SpatialDropout2D) for step in block.steps)
    np.testing.assert_array_equal(np.asarray(model(tile)), np.asarray(model(tile)))


def test_the_second_unet_takes_the_first_one_s_skips():
    model = build_model(small())
    sources = [source._keras_history.operation.name for source in model.get_layer("unet2_concat_1").input]
    assert sources == ["unet2_upsample_1", "unet2_down_1", "unet1_down_1"]


# What each part of a block and of the network does


@pytest.mark.parametrize("branches", ("dual", "channel", "spatial"))
def test_attention_whose_last_convolution_is_zero_is_the_identity(branches):
    block = blocks.DualAttention(branches)
    assert not np.allclose(np.asarray(block(MAP)), MAP)
    block.merge.set_weights([0 * weight for weight in block.merge.get_weights()])
    np.testing.assert_array_equal(np.asarray(block(MAP)), MAP)


def gates(block, branch):
    """What one branch of a dual attention unit multiplies the features by, (2, 4, 8, 16); NaN where they are small."""
    first, second = np.eye(16) * (branch == "channel"), np.eye(16) * (branch == "spatial")
    block.merge.set_weights([np.concatenate([first, second])[None, None], np.zeros(16)])
    features = np.asarray(block.before(MAP))
    return (np.asarray(block(MAP)) - MAP) / np.where(np.abs(features) > 0.01, features, np.nan)


def spread(gate, axis):
    return np.nanmax(gate, axis=axis) - np.nanmin(gate, axis=axis)


def test_the_channel_branch_weighs_channels_and_the_spatial_branch_pixels():
    block = blocks.DualAttention()
    block(MAP)
    by_channel, by_pixel = gates(block, "channel"), gates(block, "spatial")
    for gate in (by_channel, by_pixel):
        assert np.nanmin(gate) > 0 and np.nanmax(gate) < 1
    assert spread(by_channel, (1, 2)).max() < 1e-3 < spread(by_channel, 3).min()
    assert spread(by_pixel, 3).max() < 1e-3 < spread(by_pixel, (1, 2)).min()
    assert spread(by_channel[:, 0, 0], 0).max() > 1e-3  # from the tile's own features


def test_the_spatial_branch_sees_mean_and_maximum():
    block = blocks.DualAttention("spatial")
    block(MAP)
    features = np.asarray(block.before(MAP))
    kernel = np.zeros((5, 5, 2, 1))
    kernel[2, 2, :, 0] = 0.3, -0.2  # no neighbours, so that the gate can be worked out by hand
    block.where.set_weights([kernel, np.zeros(1)])
    block.merge.set_weights([np.eye(16)[None, None], np.zeros(16)])
    gate = 1 / (1 + np.exp(-0.3 * features.mean(-1, keepdims=True) + 0.2 * features.max(-1, keepdims=True)))
    np.testing.assert_allclose(np.asarray(block(MAP)), MAP + features * gate, rtol=1e-4, atol=1e-5)


def test_every_branch_of_the_pyramid_acts_at_its_own_rate():
    block = blocks.SpatialPyramid(8, (1, 2))
    result = np.asarray(block(MAP))
    kernel, *rest = block.merge.get_weights()
    assert kernel.shape == (1, 1, 8 * 4, 8)  # point, two rates, image pooling
    for branch in range(4):
        without = kernel.copy()
        without[:, :, 8 * branch : 8 * branch + 8] = 0
        block.merge.set_weights([without, *rest])
        assert not np.allclose(np.asarray(block(MAP)), result)
    rates = [branch.layers[0].dilation_rate for branch in block.branches]
    assert rates == [(1, 1), (1, 1), (2, 2)]
    assert [branch.layers[0].kernel_size for branch in block.branches] == [(1, 1), (3, 3), (3, 3)]


def test_image_pooling_sees_every_pixel():
    block = blocks.SpatialPyramid(8, (1,))
    block(MAP)
    kernel, *rest = block.merge.get_weights()
    kernel[:, :, :-8] = 0  # image pooling alone
    block.merge.set_weights([kernel, *rest])
    shuffled = rng.permuted(MAP.reshape(2, 32, 16), axis=1).reshape(MAP.shape)
    assert np.ptp(np.asarray(block(MAP)), axis=(1, 2)).max() < 1e-6
    np.testing.assert_allclose(np.asarray(block(shuffled)), np.asarray(block(MAP)), atol=1e-5)


def test_a_convolution_block_ends_in_relu():
    result = np.asarray(blocks.ConvBlock(6)(MAP))
    assert result.min() == 0 < result.max()


def layer_norm(values):
    return (values - values.mean(-1, keepdims=True)) / np.sqrt(values.var(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("kind", ("encoder", "decoder"))
def test_transformers_add_to_what_they_read(kind):
    """With attention and feed-forward at zero there is left what went in, with its positions, normalised."""
    block, call = transformer(kind)
    for name in ("attend", "cross", "feed_forward"):
        if layer := getattr(block, name, None):
            layer.set_weights([0 * weight for weight in layer.get_weights()])
    expected = MAP + np.asarray(blocks.positions(MAP))
    for _ in range(2 if kind == "encoder" else 3):
        expected = layer_norm(expected)
    np.testing.assert_allclose(np.asarray(call()), expected, atol=1e-4)


def transformer(kind):
    """A transformer block, built, and its call on MAP; a decoder's memory is all zero."""
    if kind == "encoder":
        block = blocks.TransformerEncoder()
        call = lambda x=MAP: block(x)  # noqa: E731
    else:
        block = blocks.TransformerDecoder()
        call = lambda x=MAP: block(x, np.zeros((2, 4, 8, 5), np.float32))  # noqa: E731
    call()
    return block, call


@pytest.mark.parametrize("kind", ("encoder", "decoder"))
def test_every_sublayer_of_a_transformer_acts_and_sees_the_whole_map(kind):
    block, call = transformer(kind)
    result = np.asarray(call())
    spot = MAP.copy()
    spot[:, 0, 0, :8] += 1
    assert (np.abs(np.asarray(call(spot)) - result).max(-1) > 0).all()
    names = ["attend", "feed_forward"] + (["cross"] if kind == "decoder" else [])
    for name in names:
        layer = getattr(block, name)
        weights = layer.get_weights()
        layer.set_weights([weight + 0.1 * rng.normal(size=weight.shape) for weight in weights])
        assert not np.allclose(np.asarray(call()), result, atol=1e-3), name
        layer.set_weights(weights)


def test_scaling_makes_grey_levels_standard():
    scaling = build_model(small(nesting=1, depth=1)).get_layer("scaling")
    np.testing.assert_allclose(np.asarray(scaling(np.array([32.0, 64, 96]))), [-1, 0, 1])


def test_dropout_differs_from_step_to_step_in_training():
    model = build_model(small(depth=2, nesting=1, dropout=0.5))
    tile = rng.integers(0, 256, (4, 64, 128)).astype(np.uint8)
    first, second = (np.asarray(model(tile, training=True)) for _ in range(2))
    assert not np.allclose(first, second)


def test_every_source_of_every_decoder_level_carries_signal():
    """Upsampled features, the U-Net's own skips and those of the U-Net before: without one the answer is another."""
    model = build_model(small(depth=2, dspp_rates=(1,)).replace(width=8), 16, 32)
    tile = rng.integers(0, 256, (1, 16, 32)).astype(np.uint8)
    answer = np.asarray(model(tile))
    for number, level in ((1, 0), (1, 1), (2, 0), (2, 1)):
        sources = [source.shape[-1] for source in model.get_layer(f"unet{number}_concat_{level}").input]
        assert len(sources) == 1 + number
        convolution = model.get_layer(f"unet{number}_up_{level}").steps[0]
        (kernel,) = convolution.get_weights()
        for start, channels in zip(np.cumsum([0, *sources]), sources):
            without = kernel.copy()
            without[:, :, start : start + channels] = 0
            convolution.set_weights([without])
            assert not np.allclose(np.asarray(model(tile)), answer, atol=1e-4)
        convolution.set_weights([kernel])


@pytest.mark.parametrize("changes", [dict(attention="dual"), dict(attention="none", transformer="bottleneck")])
def test_every_weight_is_trained(changes):
    """No layer hangs beside the way to the logits, and no path in between is cut."""
    import tensorflow as tf

    model = build_model(small(depth=2, dspp_rates=(1, 2), **changes).replace(width=8), 16, 32)
    tile = rng.integers(0, 256, (2, 16, 32)).astype(np.uint8)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model(tile, training=True) * rng.normal(size=(2, 16, 32, 5)))
    for variable, gradient in zip(
        model.trainable_weights, tape.gradient(total, [v.value for v in model.trainable_weights])
    ):
        assert gradient is not None and np.abs(gradient).max() > 0, variable.path


def test_folding_moves_pixels_into_channels():
    """Each 2 x 2 square becomes one pixel, row by row; nothing is lost."""
    grid = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    folded = np.asarray(blocks.Fold(2)(grid))
    assert folded.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(folded[1, 1, 2], grid[1, 2:, 4:].reshape(-1))
    np.testing.assert_array_equal(np.asarray(blocks.Unfold(2)(folded)), grid)
    assert blocks.Unfold(2).compute_output_shape((None, 2, None, 12)) == (None, 4, None, 3)


def test_a_residual_block_adds_to_its_input():
    """With nothing from its convolutions it passes on what it got, ReLU apart; with them their part is recalibrated."""
    block = blocks.ResidualBlock(16)
    answer = np.asarray(block(MAP))
    block.second_norm.gamma.assign(np.zeros(16))
    np.testing.assert_allclose(np.asarray(block(MAP)), np.maximum(MAP, 0), atol=1e-6)
    assert not np.allclose(answer, np.maximum(MAP, 0), atol=0.01)
    block.second_norm.gamma.assign(np.ones(16))
    block.excite.bias.assign(np.full(16, -50.0))  # nothing is let through
    np.testing.assert_allclose(np.asarray(block(MAP)), np.maximum(MAP, 0), atol=1e-6)


def test_a_convolution_block_is_recalibrated_where_it_is_asked_for():
    block = blocks.ConvBlock(16, squeeze=True)
    assert np.asarray(block(MAP)).any()
    _, excite = block.excitation
    excite.bias.assign(np.full(16, -50.0))  # nothing is let through
    np.testing.assert_allclose(np.asarray(block(MAP)), 0, atol=1e-6)


def test_the_published_network_has_0_48_million_parameters():
    for tiny in (False, True):
        assert build_model(make_config("published", tiny)).count_params() == 480_045


@pytest.mark.parametrize("make", [lambda: blocks.ResidualBlock(16), lambda: blocks.ConvBlock(16, squeeze=True)])
def test_squeeze_and_excitation_sees_the_whole_map(make):
    block = make()
    block(MAP)
    squeeze = getattr(block, "squeeze", None) or block.excitation[0]
    squeeze.bias.assign(np.full(2, 5.0))  # or both units could be silent, by their ReLU
    answer = np.asarray(block(MAP))
    far = MAP.copy()
    far[:, -1, -1] += 5
    assert not np.allclose(np.asarray(block(far))[:, 0, 0], answer[:, 0, 0], atol=1e-6)


def compact(**changes):
    return make_config("compact").replace(**{**dict(width=4, depth=3), **changes})


def test_the_compact_network_in_numbers():
    assert build_model(make_config("compact", tiny=True)).count_params() == 2_921_221
    model = build_model(compact())
    assert [model.get_layer(f"down_{level}").output.shape[1:] for level in range(3)] == [
        (32, 64, 4), (16, 32, 8), (8, 16, 16)
    ]  # fmt: skip
    with pytest.raises(ValueError):
        build_model(compact(attention="none")).get_layer("attention")
    assert build_model(compact(attention="dual")).get_layer("attention")


@pytest.mark.parametrize("upscale", ["bilinear", "subpixel"])
def test_every_weight_of_the_compact_network_is_trained(upscale):
    import tensorflow as tf

    model = build_model(compact(width=8, attention="dual", upscale=upscale), 16, 32)
    tile = rng.integers(0, 256, (2, 16, 32)).astype(np.uint8)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model(tile, training=True) * rng.normal(size=(2, 16, 32, 5)))
    gradients = tape.gradient(total, [variable.value for variable in model.trainable_weights])
    for variable, gradient in zip(model.trainable_weights, gradients):
        assert gradient is not None and np.abs(gradient).max() > 0, variable.path


def test_the_compact_network_s_last_step_sees_single_pixels_of_the_tile():
    """Where the folded maps cannot tell pixels of a square apart, the raw tile's filters do."""
    model = build_model(compact(), 16, 32)
    tile = rng.integers(0, 256, (1, 16, 32)).astype(np.uint8)
    answer = np.asarray(model(tile))
    model.get_layer("raw").kernel.assign(np.zeros((3, 3, 1, 8)))
    assert not np.allclose(np.asarray(model(tile)), answer, atol=1e-5)


def test_a_folded_last_step_tells_pixels_of_a_square_apart():
    """It computes at half the resolution, sees the tile itself, and gives each pixel of a square logits of its own."""
    model = build_model(compact(upscale="subpixel"), 16, 32)
    tile = rng.integers(0, 256, (1, 16, 32)).astype(np.uint8)
    answer = np.asarray(model(tile))
    assert len(np.unique(answer[0, 4:6, 8:10, 0])) == 4
    last = model.get_layer("last")
    assert last.input.shape[1:] == (8, 16, 4 + 4) and last.output.shape[1:] == (8, 16, 4 * 2)
    kernel, bias = last.get_weights()
    kernel[:, :, 4:] = 0  # the tile's own four channels come last
    last.set_weights([kernel, bias])
    assert not np.allclose(np.asarray(model(tile)), answer, atol=1e-5)


@pytest.mark.parametrize("changes", [dict(nesting=2), dict(transformer="bottleneck")])
def test_a_compact_network_is_one_network_without_transformers(changes):
    with pytest.raises(UserError, match="architecture=compact: one network without transformers"):
        compact(**changes)
