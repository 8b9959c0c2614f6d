"""The palette stays apart for every eye; the pictures are written whole, and show what they should."""

import matplotlib.image
import numpy as np
import pytest

from lib import figures

# Linear RGB as seen with a colour blindness of full severity (Machado, Oliveira, Fernandes 2009, table 1)
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(rgb):
    share = np.asarray(rgb) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def lab(light):
    """CIELAB under D65 of linear sRGB (..., 3)."""
    to_xyz = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])
    x, y, z = np.moveaxis(np.cbrt(np.clip(light, 0.001, 1) @ to_xyz.T / [0.9505, 1, 1.0888]), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def closest(colours, sight):
    points = lab(linear(colours) @ np.array(SIGHT[sight]).T)
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return distances[np.triu_indices(len(points), 1)].min()


@pytest.mark.parametrize("sight", SIGHT)
def test_every_eye_tells_the_five_classes_apart(sight):
    # A CIELAB distance of 2.3 is just noticeable; red and green of one lightness fall below 15 here
    assert closest(figures.PALETTE, sight) > 25


@pytest.mark.parametrize("sight", SIGHT)
def test_every_eye_tells_right_from_wrong(sight):
    assert closest(list(figures.ERRORS.values()), sight) > 25


def test_red_and_green_would_fail_the_palette_test():
    assert closest([(214, 39, 40), (84, 120, 40)], "deuteranopia") < 25 < closest([(214, 39, 40), (84, 120, 40)], "normal")


def test_a_mask_takes_the_palette_colour_of_each_label():
    mask = np.array([[0, 1], [4, 3]], np.uint8)
    colours = figures.colour_mask(mask)
    assert colours.shape == (2, 2, 3) and colours.dtype == np.uint8
    assert tuple(colours[1, 0]) == tuple(figures.PALETTE[4])


def test_true_background_is_never_an_error():
    kinds = figures.error_kinds(np.array([[0, 0, 1, 2]]), np.array([[0, 3, 1, 3]]))
    assert kinds.tolist() == [[2, 2, 0, 1]]


def test_a_grid_shows_every_panel_and_the_legend(tmp_path):
    mask = np.full((64, 128), 4, np.uint8)
    rows = [[np.full((64, 128), 90, np.uint8), figures.colour_mask(mask)]] * 3
    figures.tile_grid(tmp_path / "grid.png", rows, ["tile", "mask"])
    picture = np.rint(matplotlib.image.imread(tmp_path / "grid.png")[..., :3] * 255)
    rock = (picture == figures.PALETTE[4]).all(-1).sum()
    assert 3 * 256 * 128 <= rock < 3 * 256 * 128 * 1.1  # three panels at two pixels a pixel, and a legend patch
    assert (picture == figures.PALETTE[2]).all(-1).sum() > 20  # bedrock stands in the legend only
