"""A frame of any size, predicted in overlapping windows, row of windows by row of windows, at constant memory.

    for probabilities in strips(frame, members, step, background): ...     # (n, W, 5) float32, from top to bottom

A network knows least at the edge of what it is shown. So windows overlap, an outer margin of each is thrown away unless
the frame itself ends there, and in the middle of what overlaps one window's say passes into the other's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from lib.task import CLASSES, HEIGHT, WIDTH

WINDOW = 8 * HEIGHT, 8 * WIDTH
"""Rows and columns of a window: as many pixels as a batch of tiles has."""

MARGIN = 5 * HEIGHT // 4, 5 * WIDTH // 4
"""Rows and columns at the edge of a window that are thrown away. Beyond it lies nothing that changes more than a label
in two hundred, and that for the deepest network, `seventh`, whose two U-Nets see furthest."""

BLEND = HEIGHT // 2, WIDTH // 2
"""Rows and columns between the margins of two windows, over which one passes into the other."""

Member = Callable[[], Callable[[np.ndarray], np.ndarray]]
"""Makes a network ready, once for a row of windows: from windows (1, h, w) uint8 to probabilities (1, h, w, 5)."""


class Frame(Protocol):
    """A grey picture of `height` x `width` pixels, read in strips."""

    height: int
    width: int

    def rows(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, width) uint8, on the scale of the tiles."""


class Span(NamedTuple):
    """One window along an axis: its first pixel, and its share (n,) float32 in what is said of each of its pixels."""

    start: int
    share: np.ndarray


def spans(size: int, window: int, margin: int, blend: int) -> list[Span]:
    """The windows along an axis of `size` pixels; at each pixel their shares sum to 1.

    They are a window less what overlaps apart, but for the last one, which ends where the axis ends. An axis shorter
    than a window is one window.
    """
    window = min(window, size)
    apart = window - 2 * margin - blend
    starts = [*range(0, size - window, apart), size - window] if window < size else [0]
    inside = np.clip((np.arange(window) + 0.5 - margin) / blend, 0, 1)
    shares, total = [], np.zeros(size)
    for start in starts:
        share = np.ones(window)
        if start > 0:
            share *= inside
        if start + window < size:
            share *= inside[::-1]
        shares.append(share)
        total[start : start + window] += share
    return [
        Span(start, (share / total[start : start + window]).astype(np.float32)) for start, share in zip(starts, shares)
    ]


def padded(height: int, width: int, step: int) -> tuple[int, int]:
    """What windows see of a frame: at least a tile, and multiples of `step`; what is missing is mirrored in."""
    return max(-(-height // step) * step, HEIGHT), max(-(-width // step) * step, WIDTH)


def grid(height: int, width: int, step: int, window: tuple[int, int] = WINDOW) -> tuple[list[Span], list[Span]]:
    """The windows of a frame, down and across. They start at multiples of `step`, so that all pool the same pixels."""
    down, across = (spans(*axis) for axis in zip(padded(height, width, step), window, MARGIN, BLEND))
    return down, across


def strips(
    frame: Frame, members: Sequence[Member], step: int, window: tuple[int, int] = WINDOW, told: Callable = lambda: None
) -> Iterator[np.ndarray]:
    """The mean probabilities of an ensemble, (n, W, 5) float32 for n rows at a time, from the top of a frame down.

    Args:
        frame: of any size; a row of windows is asked for at a time.
        members: of the ensemble, all with one vote.
        step: what sides of windows are multiples of: a divisor of `HEIGHT`, as the frame's networks need it.
        window: rows and columns of a window, multiples of a tile's.
        told: called after each window of each member.

    What is held: the grey levels and probabilities of one row of windows, whatever the frame's height.
    """
    height, width = padded(frame.height, frame.width, step)
    down, across = grid(frame.height, frame.width, step, window)
    total = np.zeros((len(down[0].share), width, len(CLASSES)), np.float32)
    for number, (top, share) in enumerate(down):
        seen = frame.rows(top, min(top + len(share), frame.height))
        shown = np.pad(seen, ((0, len(share) - len(seen)), (0, width - seen.shape[1])), "symmetric")
        for member in members:
            predict = member()
            for left, beside in across:
                part = np.s_[:, left : left + len(beside)]
                weight = share[:, None] * beside / len(members)
                total[part] += weight[..., None] * predict(np.ascontiguousarray(shown[part])[None])[0]
                told()
        last = number == len(down) - 1
        done = (height if last else down[number + 1].start) - top  # rows that no later window sees
        yield total[: min(done, frame.height - top), : frame.width]
        total = np.concatenate([total[done:], np.zeros_like(total[:done])])
