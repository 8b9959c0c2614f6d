"""A network on a frame: on a tile it says what it always did, and on a frame no pixel knows of ground far away."""

import numpy as np
import pytest

from lib.blocks import Box, ConvBlock, DualAttention, ResidualBlock, SpatialPyramid, _means
from lib.config import Config
from lib.console import UserError
from lib.experiments import make_config
from lib.local import check_local, local, step
from lib.models import build_model

rng = np.random.default_rng(0)
SIZE, CELL = (8, 16), (2, 4)


def shaken(model):
    """The same network with weights that no initializer left at 0 or 1."""
    random = np.random.default_rng(1)
    model.set_weights([weight + 0.2 * np.abs(random.normal(size=weight.shape)) for weight in model.get_weights()])
    return model


@pytest.mark.parametrize("name", ("seventh", "published", "best"))
def test_a_tile_gets_the_answer_that_it_always_got(name):
    model = shaken(build_model(make_config(name).replace(width=2, nesting=1)))
    tiles = rng.integers(0, 256, (2, 64, 128)).astype(np.uint8)
    wanted = np.asarray(model(tiles))
    np.testing.assert_allclose(np.asarray(local(model)(tiles)), wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


def test_a_mean_is_of_the_box_around_a_cell_moved_inside_the_map():
    features = rng.normal(size=(1, 14, 40, 3)).astype(np.float32)
    means = np.asarray(_means(features, Box(SIZE, CELL)))
    assert means.shape == (1, 7, 10, 3)
    for row in range(7):
        for column in range(10):
            top, left = np.clip(2 * row - 4, 0, 14 - 8), np.clip(4 * column - 8, 0, 40 - 16)
            box = features[:, top : top + 8, left : left + 16]
            np.testing.assert_allclose(means[:, row, column], box.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


BLOCKS = {
    "squeeze": lambda: ConvBlock(16, squeeze=True),
    "residual": lambda: ResidualBlock(16),
    "attention": lambda: DualAttention("dual"),
    "pyramid": lambda: SpatialPyramid(16, (2,)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_no_pixel_knows_of_what_lies_beyond_its_box(name):
    block, near = BLOCKS[name](), rng.normal(size=(1, 32, 64, 16)).astype(np.float32)
    far = near.copy()
    far[:, :8, :16] += 3
    answers = {}
    for box in (None, Box(SIZE, CELL)):
        block.box = box
        before, after = (np.asarray(block(features)) for features in (near, far))
        answers[box] = np.abs(after - before)[0, 20:, 40:].max()
    assert answers[None] > 1e-4 > 10 * answers[Box(SIZE, CELL)]


def test_the_pyramid_sees_on_a_frame_only_where_it_could_on_a_tile():
    """At rate 6 no tap reached another row of a map of 4 x 8, so whatever stands there, training never touched it."""
    block = SpatialPyramid(4, (6,))
    block.box = Box((4, 8), (1, 1))
    block.build((None, 32, 32, 3))
    (branch,) = block.branches[1:]
    dark, spot = np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 32, 32, 3), np.float32)
    spot[0, 16, 16] = 1
    branch.layers[0].set_weights([np.ones((3, 3, 3, 4))])
    seen = np.abs(np.asarray(block._branch(branch, spot, False) - block._branch(branch, dark, False)))[0, ..., 0]
    assert sorted(map(tuple, np.argwhere(seen > 0).tolist())) == [(16, 10), (16, 16), (16, 22)]


def test_networks_that_see_a_whole_tile_are_refused():
    for name in ("sixth", "spare_transformer"):
        with pytest.raises(UserError, match=r"runs/sixth: transformer=\w+ attends to a whole tile"):
            check_local(make_config(name), "runs/sixth")
    with pytest.raises(UserError, match="runs/frame: context=frame .* context=off for --frames"):
        check_local(make_config("compact").replace(context="frame"), "runs/frame")
    for name in ("seventh", "best", "published"):
        check_local(make_config(name), "it")


def test_the_sides_of_a_frame_fit_poolings_and_cells():
    assert [step(Config(depth=depth)) for depth in (1, 4, 5, 6)] == [16, 16, 32, 64]
