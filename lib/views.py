"""Views of a tile: one table of operations and their inverses, for training and for test-time averaging alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from lib.console import UserError


@dataclass(frozen=True)
class Operation:
    """A geometric operation on tiles (B, H, W, ...) and its inverse.

    `apply(tiles, *numbers)` keeps shape and dtype. `invert(maps, *numbers)` puts maps of the changed tiles back in
    place; pixels that the operation pushed out of the tile come back as 0.
    """

    numbers: int
    apply: Callable[..., np.ndarray]
    invert: Callable[..., np.ndarray]


def _identity(tiles: np.ndarray) -> np.ndarray:
    return tiles


def _hflip(tiles: np.ndarray) -> np.ndarray:
    return tiles[:, :, ::-1]


def _vflip(tiles: np.ndarray) -> np.ndarray:
    return tiles[:, ::-1]


@cache
def _mirrored(size: int) -> np.ndarray:
    """(3 * size,) a line of pixels 0..size-1 between its two mirror images."""
    line = np.arange(size)
    return np.concatenate([line[::-1], line, line[::-1]])


def _shift(tiles: np.ndarray, down: int, across: int) -> np.ndarray:
    # Mirrored, image and mask alike, so that every pixel keeps an honest label whether or not the loss ignores
    # class 0, and no artificial black border is learnt. Mirrored pixels never vote at test time: see _unshift.
    height, width = tiles.shape[1:3]
    rows = _mirrored(height)[height - down : 2 * height - down]
    columns = _mirrored(width)[width - across : 2 * width - across]
    return tiles.take(rows, axis=1).take(columns, axis=2)


def _unshift(maps: np.ndarray, down: int, across: int) -> np.ndarray:
    back = np.zeros_like(maps)
    rows, moved_rows = _overlap(maps.shape[1], down)
    columns, moved_columns = _overlap(maps.shape[2], across)
    back[:, rows, columns] = maps[:, moved_rows, moved_columns]
    return back


def _overlap(size: int, shift: int) -> tuple[slice, slice]:
    """The places that stay inside under a shift: before it, and after it."""
    kept = max(size - abs(shift), 0)
    before, after = max(-shift, 0), max(shift, 0)
    return slice(before, before + kept), slice(after, after + kept)


OPERATIONS: dict[str, Operation] = {
    "identity": Operation(0, _identity, _identity),
    "hflip": Operation(0, _hflip, _hflip),
    "vflip": Operation(0, _vflip, _vflip),
    "shift": Operation(2, _shift, _unshift),
}


@cache
def parse_view(view: str) -> tuple[tuple[Operation, tuple[int, ...]], ...]:
    """The steps of a view such as "hflip+shift(0,8)", left first. `shift(down,across)` counts pixels.

    Raises UserError for an unknown operation or a wrong number of arguments.
    """
    steps = []
    for text in view.split("+"):
        match = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)
        if not match or match[1] not in OPERATIONS:
            raise UserError(f"views: no operation {text!r} in {view!r}; there are {', '.join(OPERATIONS)}")
        operation = OPERATIONS[match[1]]
        try:
            numbers = tuple(int(number) for number in match[2].split(",")) if match[2] else ()
        except ValueError:
            numbers = None
        if numbers is None or len(numbers) != operation.numbers:
            example = f"{match[1]}(4,-8)" if operation.numbers else match[1]
            raise UserError(f"views: cannot read {text!r} in {view!r}; write {example}")
        steps.append((operation, numbers))
    return tuple(steps)


def apply_view(view: str, tiles: np.ndarray) -> np.ndarray:
    """What a view sees.

    Args:
        view: operations of the table joined by "+", applied from left to right.
        tiles: (B, H, W) or (B, H, W, C), any dtype; not changed.

    Returns:
        The same shape and dtype; possibly a view of `tiles`. Pixels from outside the tile are mirrored in.

    Raises:
        UserError: for a view that cannot be read, or a shift as large as the tile.
    """
    for operation, numbers in parse_view(view):
        _check_shift(view, numbers, tiles.shape[1:3])
        tiles = operation.apply(tiles, *numbers)
    return tiles


def invert_view(view: str, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Puts maps predicted on a view back in place.

    Args:
        view: as in `apply_view`.
        maps: (B, H, W, C) or (B, H, W), on the view's pixels; not changed.

    Returns:
        The maps on the original pixels, 0 where unseen, and `seen` (H, W) bool: where the view really saw the pixel,
        so that nothing mirrored in from the edge gets a vote.

    Raises:
        UserError: as `apply_view`.
    """
    seen = np.ones((1, *maps.shape[1:3]), bool)
    for operation, numbers in reversed(parse_view(view)):
        _check_shift(view, numbers, maps.shape[1:3])
        maps, seen = operation.invert(maps, *numbers), operation.invert(seen, *numbers)
    return maps, seen[0]


def _check_shift(view: str, numbers: tuple[int, ...], size: tuple[int, ...]) -> None:
    if any(abs(number) >= side for number, side in zip(numbers, size)):
        raise UserError(f"views: {view!r} shifts a whole tile of {size[0]}x{size[1]}; shift by less")
