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

BLOCKS = {
    "convolution": (lambda: blocks.ConvBlock(6, 0.2), 6),
    "dual": (lambda: blocks.DualAttention("dual"), 16),
    "channel": (lambda: blocks.DualAttention("channel"), 16),
    "spatial": (lambda: blocks.DualAttention("spatial"), 16),
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
    logits = model(rng.integers(0, 256, (1, side, 3 * side)).astype(np.uint8))
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
