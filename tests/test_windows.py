"""Frames in windows: shares sum to one, seams are invisible, and memory does not grow with a frame's height."""

import tracemalloc

import keras
import numpy as np
import pytest

from lib.blocks import ResidualBlock
from lib.experiments import make_config
from lib.local import local
from lib.models import build_model
from lib.windows import BLEND, MARGIN, WINDOW, grid, padded, spans, strips

SMALL = (256, 512)
STEP = 16


class Pixels:
    """A frame in memory that counts the rows that are asked for at a time."""

    def __init__(self, pixels):
        self.pixels, (self.height, self.width), self.asked = pixels, pixels.shape, []

    def rows(self, start, stop):
        assert 0 <= start < stop <= self.height
        self.asked.append(stop - start)
        return self.pixels[start:stop]


def by_grey(windows):
    """A network that looks at each pixel alone: class 1 on black, class 3 on white, and what lies between."""
    white = windows / np.float32(255)
    none = np.zeros_like(white)
    return np.stack([none, 1 - white, none, white, none], axis=-1)


def predicted(frame, *predictors, window=SMALL, step=STEP):
    members = [lambda predict=predict: predict for predict in predictors]
    return np.concatenate(list(strips(frame, members, step, window)))


@pytest.mark.parametrize("window", (192, 256, 512))
def test_shares_sum_to_one_and_windows_start_where_all_pool_the_same_pixels(window):
    for size in range(STEP, 4 * window, STEP):
        found = spans(size, window, 48, 32)
        total = np.zeros(size)
        for start, share in found:
            assert start % STEP == 0 and len(share) == min(window, size)
            total[start : start + len(share)] += share
        np.testing.assert_allclose(total, 1, rtol=1e-6)
        assert found[0].start == 0 and found[-1].start + len(found[-1].share) == size


def test_the_edge_of_a_window_has_no_share_unless_the_frame_ends_there():
    first, *middle, last = spans(2048, 512, 48, 32)
    assert middle
    for _, share in middle:
        assert not share[:48].any() and not share[-48:].any() and (share[80:-80] == 1).all()
    assert (first.share[:48] == 1).all() and not first.share[-48:].any()
    assert (last.share[-48:] == 1).all() and not last.share[:48].any()


@pytest.mark.parametrize("size", ((1, 1), (1, 300), (40, 77), (64, 128), (256, 512), (257, 513), (500, 1100)))
def test_every_pixel_of_a_frame_of_any_size_gets_its_own_answer(size):
    frame = Pixels(np.random.default_rng(0).integers(0, 256, size).astype(np.uint8))
    found = predicted(frame, by_grey)
    assert found.shape == (*size, 5) and found.dtype == np.float32
    np.testing.assert_allclose(found, by_grey(frame.pixels), atol=1e-5)


def test_what_a_window_lacks_is_mirrored_in():
    frame, shown = Pixels(np.arange(66 * 10, dtype=np.uint16).reshape(66, 10).astype(np.uint8)), []
    predicted(frame, lambda windows: shown.append(windows[0]) or by_grey(windows))
    (window,) = shown
    assert window.shape == padded(66, 10, STEP) == (80, 128)
    np.testing.assert_array_equal(window[66:], np.pad(frame.pixels[-14:], ((0, 0), (0, 118)), "symmetric")[::-1])


def test_members_have_one_vote_each():
    frame = Pixels(np.full((70, 130), 51, np.uint8))  # a fifth of white
    found = predicted(frame, by_grey, by_grey, lambda windows: by_grey(255 - windows))
    np.testing.assert_allclose(found[..., 3], (0.2 + 0.2 + 0.8) / 3, rtol=1e-5)


def test_one_window_s_say_passes_into_the_other_s_without_a_step():
    """A network that says the more of sand, the more windows it has seen."""
    seen = []

    def later(windows):
        seen.append(0)
        return by_grey(np.full_like(windows, 40 * len(seen)))

    across = predicted(Pixels(np.zeros((64, 1000), np.uint8)), later)[0, :, 3]
    assert len(seen) == 5 and 0 < np.abs(np.diff(across)).max() < 3 * 40 / 255 / BLEND[1]  # the last lie close
    seen.clear()
    down = predicted(Pixels(np.zeros((520, 128), np.uint8)), later)[:, 0, 3]
    assert len(seen) == 6 and 0 < np.abs(np.diff(down)).max() < 3 * 40 / 255 / BLEND[0]


def test_memory_does_not_grow_with_the_height_of_a_frame():
    class Endless:
        width = 384

        def __init__(self, height):
            self.height = height

        def rows(self, start, stop):
            assert stop - start <= SMALL[0]
            return np.zeros((stop - start, self.width), np.uint8)

    peaks = []
    for height in (800, 8000):
        tracemalloc.start()
        for strip in strips(Endless(height), [lambda: by_grey], STEP, SMALL):
            del strip
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_windows_leave_room_between_their_margins():
    for side, margin, blend in zip(WINDOW, MARGIN, BLEND):
        assert side - 2 * margin - blend > side / 2 and (side - 2 * margin - blend) % 64 == 0
    assert [len(axis) for axis in grid(1024, 2048, STEP)] == [3, 3]


@pytest.fixture(scope="module")
def ground() -> np.ndarray:
    """A frame (320, 768) that is bright on one side and rough on the other, in patches."""
    random = np.random.default_rng(0)
    light, rough = (random.random((10, 24)).repeat(32, axis=0).repeat(32, axis=1) for _ in range(2))
    across = np.linspace(0, 1, light.shape[1])
    return (128 * light * across + 120 * rough * (1 - across) * random.random(light.shape)).astype(np.uint8)


def agreement(model, ground) -> float:
    """Of the pixels away from the frame's border, the share that has one label, whole and in windows."""
    whole, apart = (
        predicted(Pixels(ground), model.predict_on_batch, window=window)[32:-32, 64:-64]
        for window in (ground.shape, SMALL)
    )
    usual, spread = whole.mean(axis=(0, 1)), whole.std(axis=(0, 1))  # else one class is the likeliest everywhere
    whole, apart = (((maps - usual) / spread).argmax(axis=-1) for maps in (whole, apart))
    assert np.bincount(whole.ravel()).max() < 0.8 * whole.size
    return (whole == apart).mean()


def heeding(model):
    """The same network, channels of which heed much more what all of them are like."""
    for block in (layer for layer in model.layers if isinstance(layer, ResidualBlock)):
        kernel, bias = block.excite.get_weights()
        block.excite.set_weights([30 * kernel, bias])
    return model


def test_a_frame_whole_and_in_windows_has_the_same_labels(ground):
    network = heeding(build_model(make_config("best").replace(width=2)))
    assert agreement(local(network), ground) > 0.995


def test_means_of_whole_windows_would_leave_seams(ground):
    def network(*size):
        keras.utils.set_random_seed(0)
        tiles = keras.Input(size)
        features = ResidualBlock(8)(keras.layers.Rescaling(1 / 64)(tiles[..., None]))
        return heeding(keras.Model(tiles, keras.layers.Conv2D(5, 1)(features)))

    of_tiles, of_anything = network(64, 128), network(None, None)
    of_anything.set_weights(of_tiles.get_weights())
    assert agreement(local(of_tiles), ground) > 0.995
    assert agreement(of_anything, ground) < 0.95
