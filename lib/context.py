"""What a network may see of the camera frame around its tile: its grey levels, at a quarter of the resolution.

    surroundings = Surroundings.of(config, mosaic)          # None where the network sees its tile alone
    show(images, tiles, surroundings)                       # (n, 64, 128, 3) uint8: what such a network reads
    view_of("hflip+shift(0,8)", shown)                      # as lib.views.apply_view, the frame moving with the tile

No label is looked at, so nothing has to be hidden from anyone.
"""

from __future__ import annotations

import re

import numpy as np

from lib.config import Config
from lib.frames import ALONE, ZOOM, Mosaic, shrunk
from lib.task import HEIGHT, WIDTH
from lib.views import apply_view

CHANNELS = 3  # the tile; the window's grey levels; where it shows a tile at all (255)
REACH = 2  # tiles that a window of ZOOM x ZOOM tiles sees of in each direction, the outermost in half


class Surroundings:
    """Windows of ZOOM x ZOOM tiles' size around tiles of a mosaic; what was not found there is left black."""

    def __init__(self, mosaic: Mosaic):
        self._thumbnails = mosaic.thumbnails
        self._around = _around(mosaic.places)

    @classmethod
    def of(cls, config: Config, mosaic: Mosaic | None) -> Surroundings | None:
        """What a config's network may look at; `mosaic` may be None where that is nothing."""
        if config.context == "off":
            return None
        if mosaic is None:
            raise ValueError(f"context={config.context}: no mosaic given")
        return cls(mosaic)

    def windows(self, tiles: np.ndarray) -> np.ndarray:
        """(n, H, W, 2) uint8, by the tiles' numbers (n,) in the mosaic: grey levels, and 255 where there are any.

        The tile itself, in the middle, is left out: `beside` puts it in.
        """
        around = self._around[tiles]
        known = around >= 0
        parts = np.where(known[..., None, None], self._thumbnails[around], 0)  # n, row, column, height, width
        grey = parts.swapaxes(2, 3).reshape(len(tiles), -1, parts.shape[2] * parts.shape[4])
        shown = (255 * known.astype(np.uint8)).repeat(parts.shape[3], axis=1).repeat(parts.shape[4], axis=2)
        rows, columns = ((side - size) // 2 for side, size in zip(grey.shape[1:], (HEIGHT, WIDTH)))
        inside = np.s_[:, rows : rows + HEIGHT, columns : columns + WIDTH]
        return np.stack([grey[inside], shown[inside]], axis=-1)


def show(images: np.ndarray, tiles: np.ndarray, surroundings: Surroundings | None) -> np.ndarray:
    """Tiles (n, H, W) uint8 as they are, or `beside` what lies around them; `tiles` (n,): their numbers."""
    return images if surroundings is None else beside(images, surroundings.windows(tiles))


def beside(images: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """(n, H, W, CHANNELS) uint8: tiles (n, H, W), and `Surroundings.windows` with these tiles in their middle.

    So a window fits its tile, whatever was pasted on it.
    """
    small = shrunk(images)
    rows, columns = ((size - part) // 2 for size, part in zip(images.shape[1:], small.shape[1:]))
    middle = np.s_[:, rows : rows + small.shape[1], columns : columns + small.shape[2]]
    windows = windows.copy()
    windows[middle] = np.stack([small, np.full_like(small, 255)], axis=-1)
    return np.concatenate([images[..., None], windows], axis=-1)


def view_of(view: str, shown: np.ndarray) -> np.ndarray:
    """`lib.views.apply_view` of what `show` gives: a shifted tile's window is shifted as far on the ground."""
    if shown.ndim == 3:
        return apply_view(view, shown)
    slower = re.sub(r"-?\d+", lambda number: str(zoomed(int(number[0]))), view)
    return np.concatenate([apply_view(view, shown[..., :1]), apply_view(slower, shown[..., 1:])], axis=-1)


def zoomed(pixels: int) -> int:
    """A distance on the tile, in pixels of its window."""
    return int(pixels / ZOOM)


def _around(places: np.ndarray) -> np.ndarray:
    """(T, 5, 5) int64: the tiles up to REACH rows and columns away, by `places` (T, 3); -1: none, or itself."""
    offsets = np.arange(-REACH, REACH + 1)
    inside = places[:, 0] != ALONE
    rows, columns = (places[:, axis].max(initial=0) + 1 + 2 * REACH for axis in (1, 2))
    frame, row, column = places.T.astype(np.int64)
    keys = (frame * rows + row) * columns + column
    order = np.flatnonzero(inside)[np.argsort(keys[inside])]
    wanted = keys[:, None, None] + offsets[:, None] * columns + offsets
    found = np.searchsorted(keys[order], wanted)
    candidates = order[np.minimum(found, len(order) - 1)] if len(order) else np.full_like(wanted, -1)
    around = np.where(inside[:, None, None] & (keys[candidates] == wanted), candidates, -1)
    around[:, REACH, REACH] = -1
    return around
