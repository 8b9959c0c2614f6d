"""Cutouts: whole objects of the fold, pasted softly, in the light of their new place, rocks fewer where large."""

import numpy as np
import pytest

from lib.console import UserError
from lib.cutouts import (
    BIG_ROCK,
    PASTED_ROCKS,
    ROCK_SHARE,
    Composer,
    choose_place,
    cut_out,
    fitting,
    ground_light,
    paste,
    paste_rocks,
)


def scene(*boxes, label=BIG_ROCK, size=(64, 128), ground=1, grey=100, rock=180):
    """One tile of plain ground with rectangular objects, as (1, H, W) image and mask."""
    image, mask = np.full((1, *size), grey, np.uint8), np.full((1, *size), ground, np.uint8)
    for top, left, height, width in boxes:
        image[0, top : top + height, left : left + width] = rock
        mask[0, top : top + height, left : left + width] = label
    return image, mask


def rock(top=20, left=30, height=8, width=10, **options):
    return cut_out(*scene((top, left, height, width), **options), BIG_ROCK)[0]


def test_each_connected_object_is_one_cutout():
    images, masks = scene((5, 5, 6, 6), (30, 60, 10, 20))
    found = cut_out(images, masks, BIG_ROCK)
    assert [cutout.area for cutout in found] == [36, 200]
    for cutout in found:
        box = np.s_[cutout.top : cutout.top + cutout.shape.shape[0], cutout.left : cutout.left + cutout.shape.shape[1]]
        np.testing.assert_array_equal(cutout.shape, masks[0][box] == BIG_ROCK)
        np.testing.assert_array_equal(cutout.patch, images[0][box])


@pytest.mark.parametrize("box", ((5, 5, 3, 3), (5, 5, 2, 90), (0, 0, 40, 128)), ids=("speck", "sliver", "whole tile"))
def test_specks_slivers_and_whole_tiles_are_no_objects(box):
    assert cut_out(*scene(box), BIG_ROCK) == []


def test_a_paste_leaves_image_and_label_at_its_place_only():
    cutout = rock()
    image, mask = (layer[0] for layer in scene(ground=3))
    paste(image, mask, cutout, 40, 70, light=100)
    expected = np.full((64, 128), 3)
    expected[42:50, 72:82] = BIG_ROCK  # the box has a margin of two pixels
    np.testing.assert_array_equal(mask, expected)
    assert image[45, 77] == 180
    outside = np.ones_like(mask, bool)
    outside[40:52, 70:84] = False
    assert (image[outside] == 100).all()


def test_edges_are_soft():
    image, mask = (layer[0] for layer in scene(grey=0))
    paste(image, mask, rock(), 40, 70, light=100)
    beyond, outside, inside, centre = image[46, [69, 71, 72, 76]].astype(int)  # across the rock's left edge
    assert beyond == 0 < outside < 50 and 90 < inside < 170 < centre


def test_brightness_follows_the_tile_below():
    greys = []
    for ground in (70, 100, 130):
        image, mask = (layer[0] for layer in scene(grey=ground))
        paste(image, mask, rock(), 40, 70, ground_light(image, mask))
        greys.append(int(image[46, 77]) / ground)
    np.testing.assert_allclose(greys, 1.8, rtol=0.02)


def test_an_object_cut_off_by_an_edge_stays_at_that_edge():
    at_left, at_bottom = rock(left=0), rock(top=56)
    rng = np.random.default_rng(0)
    places = [choose_place(at_left, (64, 128), rng) for _ in range(50)]
    assert {left for _, left in places} == {0} and len({top for top, _ in places}) > 10
    places = [choose_place(at_bottom, (64, 128), rng) for _ in range(50)]
    assert {top + at_bottom.shape.shape[0] for top, _ in places} == {64} and len({left for _, left in places}) > 10


def test_large_rocks_are_fewer():
    small, large = rock(height=4, width=4), rock(height=40, width=60)
    assert fitting([small] * 5, 64 * 128) == [small] * 5
    assert fitting([large] * 5, 64 * 128) == [large]
    assert fitting([small, large, small], 64 * 128) == [small, small]


@pytest.mark.parametrize("in_place", (False, True))
def test_three_to_five_rocks_are_pasted(in_place):
    # Rocks of different grey, cut apart from each other, so that those pasted can be counted
    boxes = [(8 + 14 * (i % 4), 6 + 12 * (i // 4), 4, 4) for i in range(36)]
    rocks = cut_out(*scene(*boxes), BIG_ROCK)
    counts = set()
    for seed in range(40):
        image, mask = (layer[0] for layer in scene())
        paste_rocks(image, mask, rocks, in_place, np.random.default_rng(seed))
        covered = (mask == BIG_ROCK).sum() / 16
        if in_place:  # whole rocks; one drawn twice lies on itself
            assert covered == int(covered)
        assert 1 < covered <= PASTED_ROCKS[1] and (mask == BIG_ROCK).mean() <= ROCK_SHARE
        counts.add(covered)
    assert {3, 4, 5} <= counts


def test_rocks_keep_their_place_if_asked():
    rocks = [rock()]
    image, mask = (layer[0] for layer in scene())
    paste_rocks(image, mask, rocks, True, np.random.default_rng(0))
    np.testing.assert_array_equal(mask, scene((20, 30, 8, 10))[1][0])
    np.testing.assert_array_equal(image[24, 35], 180)


def test_light_is_measured_on_labelled_ground():
    image, mask = (layer[0] for layer in scene((0, 0, 20, 128)))
    mask[50:], image[50:] = 0, 250  # a bright sky
    assert ground_light(image, mask) == 100
    assert ground_light(image, np.zeros_like(mask)) == image.mean()


def test_nothing_is_pasted_on_unlabelled_ground():
    image, mask = (layer[0] for layer in scene(ground=0))
    paste_rocks(image, mask, [rock()], False, np.random.default_rng(0))
    assert not mask.any() and (image == 100).all()


@pytest.fixture(scope="module")
def terrain():
    """Tiles of soil with a patch of sand or bedrock; one of the 20 has a rock."""
    tiles = [scene((10, 20, 20, 30), label=2 + i % 2, rock=60) for i in range(20)]
    tiles[0] = scene((10, 20, 8, 8))
    return tuple(np.concatenate(layers) for layers in zip(*tiles))


def test_synthesis_shows_more_of_the_rarer_classes(terrain):
    composer = Composer(*terrain)
    chances = dict(zip(composer.objects, composer.odds))
    assert set(chances) == {2, 3, BIG_ROCK}  # soil fills its tiles
    assert chances[BIG_ROCK] > 2 * max(chances[2], chances[3])


def test_synthesis_lays_rocks_on_top(terrain):
    composer = Composer(*terrain)
    for seed in range(30):
        image, mask = (layer[0] for layer in scene())
        composer.compose(image, mask, np.random.default_rng(seed))
        # An uncovered rock of 64 pixels is whole, or it overlaps another one
        rocks = cut_out(image[None], mask[None], BIG_ROCK)
        assert all(cutout.area >= 64 for cutout in rocks)
        assert set(np.unique(mask)) <= {1, 2, 3, BIG_ROCK}


def test_synthesis_without_any_object_is_an_error():
    with pytest.raises(UserError, match="synthesis: "):
        Composer(*scene())
