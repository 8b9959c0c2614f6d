"""The palette stays apart for every eye; the pictures are written whole, and show what they should."""

import matplotlib.image
import numpy as np
import pytest

from lib import figures
from lib.audit import audit, draw
from lib.data import Dataset
from lib.evaluation import Evaluation
from lib.metrics import confusion_matrix

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


def read(path):
    return np.rint(matplotlib.image.imread(path)[..., :3] * 255).astype(int)


@pytest.mark.parametrize("sight", SIGHT)
def test_every_eye_tells_the_five_classes_apart(sight):
    # A CIELAB distance of 2.3 is just noticeable; red and green of one lightness fall below 15 here
    assert closest(figures.PALETTE, sight) > 25


@pytest.mark.parametrize("sight", SIGHT)
def test_every_eye_tells_right_from_wrong(sight):
    assert closest(list(figures.ERRORS.values()), sight) > 25


def test_red_and_green_would_fail_the_palette_test():
    assert (
        closest([(214, 39, 40), (84, 120, 40)], "deuteranopia") < 25 < closest([(214, 39, 40), (84, 120, 40)], "normal")
    )


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
    picture = read(tmp_path / "grid.png")
    rock = (picture == figures.PALETTE[4]).all(-1).sum()
    assert 3 * 256 * 128 <= rock < 3 * 256 * 128 * 1.1  # three panels at two pixels a pixel, and a legend patch
    assert (picture == figures.PALETTE[2]).all(-1).sum() > 20  # bedrock stands in the legend only


def history(epochs, rate=0.001):
    return [dict(epoch=n, loss=1 / n, mean_iou=0.1 * n, learning_rate=rate) for n in range(1, epochs + 1)]


@pytest.mark.filterwarnings("error:Data has no positive values")
@pytest.mark.parametrize(
    "rows", [[], history(1), history(3), history(1, rate=0.0), [dict(epoch=1, loss=1.0, learning_rate=0.001)]]
)
def test_curves_of_runs_of_any_length(tmp_path, rows):
    figures.curves(tmp_path / "curves.png", {"seventh": rows})
    blue = [int(figures.LINES[0][i : i + 2], 16) for i in (1, 3, 5)]
    drawn = (read(tmp_path / "curves.png") == blue).all(-1).sum()
    assert drawn > (50 if not rows else 60)  # the legend's line at least
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_a_curve_for_the_page_has_texts_and_no_fixed_black():
    svg = figures.curve_svg("learning_rate", [("a", history(3)), ("a", history(3, 0.01)), ("b", [])])
    assert ">0.001</text>" in svg and ">0.01</text>" in svg
    assert "currentColor" in svg and "#000000" not in svg and "<style" not in svg
    assert svg.count(f"stroke: {figures.LINES[0]}") == 2  # two folds of one system share their colour


def test_row_shares_of_a_class_without_pixels_are_zero():
    matrix = np.array([[0, 0], [1, 3]])
    assert figures.row_shares(matrix).tolist() == [[0, 0], [0.25, 0.75]]


def test_the_confusion_picture_is_dark_on_the_diagonal_of_a_perfect_run(tmp_path):
    figures.confusion(tmp_path / "confusion.png", np.diag([0, 5, 6, 7, 8]))
    figures.confusion(tmp_path / "none.png", np.zeros((5, 5), int))
    dark = (read(tmp_path / "confusion.png") == [8, 48, 107]).all(-1).mean()  # the end of the blue scale
    assert dark > 0.1 and (read(tmp_path / "none.png") == [8, 48, 107]).all(-1).mean() == 0


def test_brighten_uses_the_whole_range():
    tile = np.linspace(90, 120, 64 * 128).reshape(64, 128).astype(np.uint8)
    assert figures.brighten(tile).min() == 0 and figures.brighten(tile).max() == 255
    assert figures.brighten(np.full((64, 128), 7, np.uint8)).max() == 0


def make_dataset():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 64, 128), dtype=np.uint8)
    images[3] = images[2]
    masks = np.ones((12, 64, 128), np.uint8)
    masks[:4, :20] = 4
    masks[8:, 30:] = 2
    outliers = np.arange(12) >= 8
    return Dataset("made for tests", images, masks, outliers, images[:1], None, "0" * 64)


def test_the_audit_finds_balance_samples_outliers_duplicates_and_leaks():
    found = audit(make_dataset())
    counts = {what: numbers for what, numbers, _ in found.balance()}
    assert counts["tiles that show it"] == [0, 8, 0, 0, 4]
    assert counts["pixels"][4] == 4 * 20 * 128
    assert set(found.samples[4]) <= {0, 1, 2, 3} and len(found.samples[2]) == 0
    assert [group.tolist() for group in found.outliers] == [[8, 9, 10, 11]]
    assert [group.tolist() for group in found.duplicates] == [[2, 3]] and found.leaked.tolist() == [0]
    words = " ".join(found.sentences())
    assert "4 outliers" in words and "2 training tiles repeat an image" in words and "1 training image" in words


def test_the_audit_picture_shows_bars_samples_and_outliers(tmp_path):
    dataset = make_dataset()
    draw(tmp_path / "audit.png", audit(dataset), dataset)
    picture = read(tmp_path / "audit.png")
    # Bedrock is in the outliers' shared mask alone, apart from legend and an empty bar
    bedrock = (picture == figures.PALETTE[2]).all(-1).sum()
    assert 34 * 128 <= bedrock < 34 * 128 * 1.1
    assert (picture == figures.PALETTE[4]).all(-1).sum() > 4 * 20 * 128


def test_mistakes_are_drawn_in_the_error_colours(tmp_path):
    dataset = make_dataset()
    predictions = dataset.masks[:2].copy()
    predictions[0, 40:] = 3
    confusions = np.array([confusion_matrix(*pair) for pair in zip(dataset.masks[:2], predictions)])
    evaluation = Evaluation(np.arange(2), predictions, np.zeros_like(predictions), confusions)
    figures.mistakes(tmp_path / "worst.png", dataset, evaluation, evaluation.worst_first())
    wrong = (read(tmp_path / "worst.png") == figures.ERRORS["wrong"]).all(-1).sum()
    assert 4 * 24 * 128 <= wrong < 4 * 24 * 128 * 1.05  # at two pixels a pixel, and a legend patch
