"""Views of a tile: one table of operations and their inverses, for training and for test-time averaging alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from lib.console import UserError
from lib.task import HEIGHT, WIDTH

Bounds = Callable[[int, int], tuple[int, int]]
Step = tuple["Operation", tuple[int, ...]]


@dataclass(frozen=True)
class Operation:
    """A geometric operation on tiles (B, H, W, ...) and its inverse.

    `apply(tiles, *numbers)` keeps shape and dtype. `invert(maps, *numbers)` puts maps of the changed tiles back in
    place; pixels that the operation pushed out of the tile come back as 0. `bounds` has a function for each number:
    height and width of a tile -> the lowest and the highest value that makes sense there.
    """

    bounds: tuple[Bounds, ...]
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
    "identity": Operation((), _identity, _identity),
    "hflip": Operation((), _hflip, _hflip),
    "vflip": Operation((), _vflip, _vflip),
    "shift": Operation(
        (lambda height, _: (1 - height, height - 1), lambda _, width: (1 - width, width - 1)), _shift, _unshift
    ),
}


@cache
def parse_view(view: str, size: tuple[int, int] = (HEIGHT, WIDTH)) -> tuple[Step, ...]:
    """The steps of a view such as "hflip+shift(0,8)", left first. `shift(down,across)` counts pixels.

    Args:
        view: operations of the table joined by "+".
        size: (height, width) of the tiles.

    Raises:
        UserError: for an unknown operation, a wrong number of numbers, a number beyond the operation's bounds, or steps
            that together push every pixel out of the tile.
    """
    steps: list[Step] = []
    for text in view.split("+"):
        match = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)
        if not match or match[1] not in OPERATIONS:
            raise UserError(f"views: no operation {text!r} in {view!r}; there are {', '.join(OPERATIONS)}")
        operation = OPERATIONS[match[1]]
        numbers = tuple(number.strip() for number in match[2].split(",")) if match[2] else ()
        if len(numbers) != len(operation.bounds) or not all(re.fullmatch("-?[0-9]{1,9}", one) for one in numbers):
            example = f"{match[1]}({','.join('2' for _ in operation.bounds)})" if operation.bounds else match[1]
            raise UserError(f"views: cannot read {text!r} in {view!r}; write {example}")
        for number, bounds in zip(numbers, operation.bounds):
            lowest, highest = bounds(*size)
            if not lowest <= int(number) <= highest:
                raise UserError(
                    f"views: {number} in {view!r} is not between {lowest} and {highest}, the bounds of {match[1]} on "
                    f"tiles of {size[0]}x{size[1]}"
                )
        steps.append((operation, tuple(map(int, numbers))))
    if not _invert(steps, np.ones((1, *size), bool)).any():
        raise UserError(f"views: {view!r} pushes every pixel out of a tile of {size[0]}x{size[1]}; shift by less")
    return tuple(steps)


def apply_view(view: str, tiles: np.ndarray) -> np.ndarray:
    """What a view sees.

    Args:
        view: operations of the table joined by "+", applied from left to right.
        tiles: (B, H, W) or (B, H, W, C), any dtype; not changed.

    Returns:
        The same shape and dtype; possibly a view of `tiles`. Pixels from outside the tile are mirrored in.

    Raises:
        UserError: as `parse_view`.
    """
    for operation, numbers in parse_view(view, tiles.shape[1:3]):
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
        UserError: as `parse_view`.
    """
    size = maps.shape[1:3]
    steps = parse_view(view, size)
    return _invert(steps, maps), _invert(steps, np.ones((1, *size), bool))[0]


def _invert(steps: Sequence[Step], maps: np.ndarray) -> np.ndarray:
    for operation, numbers in reversed(steps):
        maps = operation.invert(maps, *numbers)
    return maps
