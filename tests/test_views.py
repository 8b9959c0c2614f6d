"""The table of views: operation then inverse is the identity wherever a pixel was really seen."""

import numpy as np
import pytest

from lib.console import UserError
from lib.task import HEIGHT, WIDTH
from lib.views import OPERATIONS, Operation, apply_view, invert_view, parse_view

VIEWS = ("identity", "hflip", "vflip", "shift(0,8)", "shift(-5,0)", "hflip+shift(3,-7)", "shift(6,9)+vflip+shift(-9,4)")


@pytest.mark.parametrize("view", VIEWS)
def test_operation_then_inverse_is_the_identity_where_seen(view):
    maps = np.random.default_rng(0).random((2, 16, 24, 5)).astype(np.float32)
    back, seen = invert_view(view, apply_view(view, maps))
    np.testing.assert_array_equal(back[:, seen], maps[:, seen])
    assert seen.shape == (16, 24) and seen.any()
    assert not back[:, ~seen].any()


@pytest.mark.parametrize("view", VIEWS)
def test_seen_is_exactly_what_stayed_inside(view):
    # Numbered pixels: mirrored copies lie elsewhere than the pixel's own new place, so count by moving a single one
    height, width = 16, 24
    _, seen = invert_view(view, np.zeros((1, height, width, 1)))
    steps = [step.split("(") for step in view.split("+")]
    for y in range(height):
        for x in range(width):
            row, column, inside = y, x, True
            for name, *numbers in steps:
                if name == "hflip":
                    column = width - 1 - column
                elif name == "vflip":
                    row = height - 1 - row
                elif name == "shift":
                    down, across = map(int, numbers[0].rstrip(")").split(","))
                    row, column = row + down, column + across
                inside &= 0 <= row < height and 0 <= column < width
            assert seen[y, x] == inside


def test_shift_moves_down_and_right_and_mirrors_at_the_edge():
    tile = np.arange(12).reshape(1, 3, 4)
    expected = [[[1, 0, 0, 1], [1, 0, 0, 1], [5, 4, 4, 5]]]
    np.testing.assert_array_equal(apply_view("shift(1,2)", tile), expected)
    np.testing.assert_array_equal(apply_view("shift(0,-1)", tile)[0, 0], [1, 2, 3, 3])


def test_all_operations_are_reachable_as_views():
    tile = np.random.default_rng(0).integers(0, 255, (1, 8, 8), np.uint8)
    for name, operation in OPERATIONS.items():
        view = name + ("(1,2)" if operation.bounds else "")
        assert apply_view(view, tile).dtype == np.uint8
        assert apply_view(view, tile).shape == tile.shape


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        ("turn", "no operation 'turn'"),
        ("", "no operation ''"),
        ("hflip+", "no operation ''"),
        ("shift", r"write shift\(2,2\)"),
        ("shift(1)", r"write shift\(2,2\)"),
        ("shift(1,2,3)", r"write shift\(2,2\)"),
        ("shift(a,b)", r"write shift\(2,2\)"),
        ("shift(1,\u00b2)", r"write shift\(2,2\)"),
        ("hflip(1)", "write hflip"),
        ("shift(0,24)", "24 in .* not between -23 and 23, the bounds of shift on tiles of 16x24"),
        ("shift(-16,0)", "-16 in .* not between -15 and 15"),
        ("vflip+shift(8,0)+shift(8,0)", "pushes every pixel out of a tile of 16x24"),
    ],
)
def test_a_view_that_cannot_be_used_is_refused_when_it_is_given(view, reason):
    with pytest.raises(UserError, match=f"views: .*{reason}"):
        parse_view(view, (16, 24))


def test_the_bounds_of_a_number_are_its_operation_s_and_the_tile_s(monkeypatch):
    quarter = Operation((lambda height, width: (0, 3),), lambda tiles, turns: tiles, lambda maps, turns: maps)
    monkeypatch.setitem(OPERATIONS, "rotate", quarter)
    assert parse_view("rotate(3)", (2, 2)) == ((quarter, (3,)),)  # more than a shift could have here
    with pytest.raises(UserError, match="4 in .* not between 0 and 3"):
        parse_view("rotate(4)", (2, 2))
    assert parse_view("shift(15,0)", (16, 24))
    with pytest.raises(UserError, match="15"):
        parse_view("shift(15,0)", (15, 24))
    assert parse_view(f"shift({HEIGHT - 1},{1 - WIDTH})")  # the competition's tile unless told
