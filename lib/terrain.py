"""Generated Mars-like terrain in the competition's format: what the project runs on where there is no data file.

    python -m lib.terrain --out terrain.npz [--seed 0] [--train 600] [--test 600] [--frame 4x2]

Whole camera frames are drawn and cut into tiles, which are dealt out over training and test set, so that neighbouring
tiles continue each other. Soil, bedrock and sand differ in relief, not in brightness: each frame has its own light,
exposure and contrast, so that the grey levels of all classes overlap. Class shares, unlabelled parts, rarity of big
rock and outliers are the competition's; they are dealt out over the frames rather than drawn, so that every seed meets
them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Annotated

import numpy as np
from pydantic import BeforeValidator, Field

from lib.config import Seed
from lib.console import ArgumentParser, Console, add_console_options, run_main
from lib.files import replacing
from lib.schema import option
from lib.task import BIG_ROCK, HEIGHT, WIDTH

FRAME = (4, 2)  # rows and columns of tiles in a camera frame
LEFT_OUT = 0.02  # share of tiles that the frames have beyond those that are wanted

MAIN = (0.478, 0.3, 0.222)  # shares of frames whose main class is soil, bedrock, sand
TWO_CLASSES = 0.5  # share of frames that show a second class; it takes SECOND of the frame
SECOND = (0.1, 0.5)
UNLABELLED = ((0.0, 0.3, 0.45, 0.7, 0.85, 1.0), (0.0, 0.0, 0.1, 0.32, 0.72, 0.92))
"""Quantiles over the frames, and the share of the frame that an unlabelled patch takes there."""
SKY, ROVER = 0.15, 0.15  # shares of the patches that are not plain ground; they take LARGEST_OTHER of the frame at most
LARGEST_OTHER = 0.25
EXPOSURE = ((0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0), (30.0, 44.0, 56.0, 64.0, 72.0, 84.0, 98.0))
"""Quantiles over the frames, and the mean grey level there."""
FRAMED = 0.5  # share of tiles with an unlabelled border of up to two pixels
ROCKY = 0.025  # share of tiles with big rock
ROCK_SIZE = (0.006, 0.36)  # of a tile, log-uniform: what the rocks beside each other take together
FEWEST_ROCKY = 5  # training tiles with big rock in a small set, one for each fold, but no more than every eighth
OUTLIERS = 0.042  # share of training tiles: different images, one mask

MARGIN = 256  # pixels by which each class's ground, a square that frames are windows of, is longer than a frame
ROUGHNESS = (6.5, 8.0, 3.0)  # grey levels of soil's, bedrock's and sand's relief

Tiles = Annotated[int, Field(ge=0, le=100_000)]


def _rows_and_columns(text: object) -> object:
    if not (found := re.fullmatch(r"(\d{1,9})x(\d{1,9})", str(text), re.ASCII)):
        raise ValueError(f"must be rows and columns of tiles, such as {FRAME[0]}x{FRAME[1]}")
    return found.groups()


Frame = Annotated[
    tuple[Annotated[int, Field(ge=1, le=16)], Annotated[int, Field(ge=1, le=8)]], BeforeValidator(_rows_and_columns)
]
"""Rows and columns of tiles, as text ROWSxCOLUMNS. Curiosity's cameras take 1024x1024 pixels, 16x8 tiles."""


def generate(seed: int = 0, train: int = 600, test: int = 600, frame: tuple[int, int] = FRAME) -> dict[str, np.ndarray]:
    """Draws a data set of frames of `frame` rows and columns of tiles. Equal arguments give equal bytes on one machine.

    Another kind of processor may round a few grey levels otherwise.

    Returns:
        training_set (train, 2, 64, 128) uint8: grey image 0..255 and labels 0..4, outliers among them;
        test_set (test, 64, 128) uint8, and its labels test_masks (test, 64, 128) uint8;
        places (train + test, 3) int32: frame, row and column of each training and then each test tile, from 0; -1
        three times for outliers, which are of no frame.
    """
    rng = np.random.default_rng(seed)
    outliers = round(OUTLIERS * train) if train >= 50 else 0  # a lone one shares its mask with none
    reliefs = _reliefs(rng, frame)
    honest = train - outliers
    rocky = max(min(FEWEST_ROCKY, honest // 8), int(np.ceil(ROCKY * honest))), int(np.ceil(ROCKY * test))
    images, masks, places = _tiles(rng, reliefs, honest + test, frame, sum(rocky))
    training, testing = _deal(rng, masks, honest, rocky)
    alien_images, alien_masks = _outliers(rng, reliefs, outliers)
    order = rng.permutation(train)
    training_images = np.concatenate([images[training], alien_images])[order]
    training_masks = np.concatenate([masks[training], alien_masks])[order]
    training_places = np.concatenate([places[training], np.full((outliers, 3), -1, np.int32)])[order]
    return {
        "training_set": np.stack([training_images, training_masks], axis=1),
        "test_set": images[testing],
        "test_masks": masks[testing],
        "places": np.concatenate([training_places, places[testing]]),
    }


def _deal(
    rng: np.random.Generator, masks: np.ndarray, train: int, rocky: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of `train` training tiles and of the test tiles, both in random order.

    Of tiles sorted by what they show, training tiles are evenly spaced ones: both sets show as much of everything for
    every seed, which dealing by chance alone would not achieve with 600 tiles.

    Args:
        masks: (N, 64, 128) uint8 of all tiles.
        rocky: tiles with big rock that are wanted in the training and in the test set; those in excess go to both.
    """
    shuffled = rng.permutation(len(masks))
    counts = np.stack([(masks == label).sum(axis=(1, 2))[shuffled] for label in range(BIG_ROCK + 1)])
    classes = counts[1:BIG_ROCK]
    order = np.lexsort((counts[0], (classes > 0).sum(axis=0), classes.argmax(axis=0), counts[BIG_ROCK]))
    shown, has_rock = shuffled[order], counts[BIG_ROCK, order] > 0
    some = round(has_rock.sum() * rocky[0] / max(1, sum(rocky)))
    some = int(np.clip(some, has_rock.sum() - (len(masks) - train), train))
    chosen = np.zeros(len(masks), bool)
    for group, size in ((shown[has_rock], some), (shown[~has_rock], train - some)):
        chosen[group] = _evenly(rng, len(group), size)
    return rng.permutation(np.flatnonzero(chosen)), rng.permutation(np.flatnonzero(~chosen))


def _evenly(rng: np.random.Generator, number: int, size: int) -> np.ndarray:
    """(number,) bool: `size` of them, evenly spaced, from a random one on."""
    whole = max(1, number)
    return np.diff((np.arange(number + 1) * size + rng.integers(whole)) // whole) > 0


def _tiles(
    rng: np.random.Generator, reliefs: np.ndarray, number: int, frame: tuple[int, int], rocky: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Honest tiles in the order of their places: images and masks (number, 64, 128) uint8, places (number, 3) int32.

    About `rocky` of them show big rock, hardly ever fewer. Tiles that the frames have in excess are left out at random.
    """
    size = frame[0] * frame[1]
    scenes = _scenes(rng, max(-(-number // size), round((1 + LEFT_OUT) * number / size)))
    kept = np.zeros((len(scenes), *frame), bool)
    kept.flat[rng.permutation(kept.size)[:number]] = True
    tiles = np.empty((2, number, HEIGHT, WIDTH), np.uint8)
    sizes = _rock_sizes(rng)
    done = with_rock = 0
    for index, scene in enumerate(scenes):
        due = -(-rocky * (index + 1) // len(scenes)) - with_rock
        image, labels = _frame(rng, reliefs, scene, kept[index], due, sizes)
        these = slice(done, done := done + kept[index].sum())
        tiles[0, these], tiles[1, these] = (_cut(layer, frame)[kept[index]] for layer in (image, labels))
        with_rock += (tiles[1, these] == BIG_ROCK).any(axis=(1, 2)).sum()
    return tiles[0], tiles[1], np.argwhere(kept).astype(np.int32)


def _cut(layer: np.ndarray, frame: tuple[int, int]) -> np.ndarray:
    """The tiles (R, C, 64, 128) of one layer (64 R, 128 C) of a frame of R rows and C columns of them, as a view."""
    return layer.reshape(frame[0], HEIGHT, frame[1], WIDTH).swapaxes(1, 2)


@dataclass(frozen=True)
class _Scene:
    """What a frame shows: main and second class by index and the latter's share, an unlabelled patch, how light it is.

    `patch` is ground, sky or rover; `exposure` is the mean grey level.
    """

    main: int
    second: int
    second_share: float
    patch: str
    patch_share: float
    exposure: float


def _scenes(rng: np.random.Generator, number: int) -> list[_Scene]:
    """`number` frames to draw, in random order.

    A Weyl sequence (multiples of irrationals, modulo 1) spreads each property evenly over every stretch of frames, and
    so over each class: shares come out alike for every seed, which independent draws would not achieve with 150 frames.
    """
    numbers = np.arange(number)
    main = np.searchsorted(np.cumsum(MAIN)[:-1], (numbers + 0.5) / max(1, number))
    two, share, kind, size, light = (np.outer(np.sqrt([2, 3, 5, 7, 11]), numbers) + rng.random((5, 1))) % 1
    second = np.where(two < TWO_CLASSES, (main + 1 + (two < TWO_CLASSES / 2)) % 3, main)
    second_share = np.where(second == main, 0, np.interp(share, (0, 1), SECOND))
    patch = np.select([kind < SKY, kind < SKY + ROVER], ["sky", "rover"], "ground")
    patch_share = np.minimum(np.interp(size, *UNLABELLED), np.where(patch == "ground", 1, LARGEST_OTHER))
    columns = main, second, second_share, patch, patch_share, np.interp(light, *EXPOSURE)
    scenes = [_Scene(*values) for values in zip(*(column.tolist() for column in columns))]
    return [scenes[index] for index in rng.permutation(number)]


def _frame(
    rng: np.random.Generator, reliefs: np.ndarray, scene: _Scene, kept: np.ndarray, rocky: int, sizes: Iterator[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Grey image and labels of one frame, both (64 R, 128 C) uint8.

    Args:
        kept: (R, C) bool: tiles that are not left out.
        rocky: how many of these are to show big rock.
        sizes: of the rocks, in shares of a tile.
    """
    shape = kept.shape[0] * HEIGHT, kept.shape[1] * WIDTH
    frontier = _smooth(rng, shape, 50, 70) + 0.15 * _smooth(rng, shape, 10, 14)
    frontier -= _level(frontier, scene.second_share)
    angle = rng.uniform(0, 2 * np.pi)
    light = np.array([np.sin(angle), np.cos(angle)], np.float32)  # down and across: what rises along it is bright
    image = _ground(rng, reliefs, scene, frontier, light)
    # The crowd draws borders by hand: near the true ones, not on them
    drawn = frontier + 0.06 * _smooth(rng, shape, 4, 6) > 0
    labels = np.where(drawn, scene.second + 1, scene.main + 1).astype(np.uint8)
    _patch(rng, image, labels, scene)
    borders = _borders(rng, kept.shape)
    _rocks(rng, image, labels, kept.repeat(HEIGHT, 0).repeat(WIDTH, 1) & ~borders, rocky, sizes, light)
    labels[borders] = 0
    image += rng.uniform(0.5, 2.5) * rng.standard_normal(shape, np.float32)
    return image.clip(0, 255).astype(np.uint8), labels


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], down: float, across: float) -> np.ndarray:
    """A Gaussian random field of `shape`, float32, of mean 0, variance 1 and the given scales in pixels."""
    rows, columns = _blur(shape[0], down), _blur(shape[1], across)
    return rows @ rng.standard_normal((rows.shape[1], columns.shape[1]), np.float32) @ columns.T


@cache
def _blur(length: int, scale: float) -> np.ndarray:
    """(length, points) float32: what each of evenly spaced random points adds to each pixel of a line."""
    points = np.arange(-2 * scale, length + 2 * scale, scale)
    kernel = np.exp(-0.5 * ((np.arange(length)[:, None] - points) / scale) ** 2)
    return (kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32)


def _level(field: np.ndarray, share: float) -> float:
    """The level above which a field lies on `share` of the frame; infinite for none."""
    return float(np.quantile(field[::4, ::4], 1 - share)) if share > 0 else np.inf


def _from_centre(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels down (H, 1) and across (1, W) from the centre of a frame, float32."""
    down, across = (np.arange(length, dtype=np.float32) - (length - 1) / 2 for length in shape)
    return down[:, None], across[None, :]


def _ground(
    rng: np.random.Generator, reliefs: np.ndarray, scene: _Scene, frontier: np.ndarray, light: np.ndarray
) -> np.ndarray:
    """Grey image (H, W) float32: the second class where `frontier` > 0, the main one elsewhere, blended between."""
    height, width = frontier.shape

    def lit(kind: int) -> np.ndarray:
        row, column = (rng.integers(reliefs.shape[1] - length) for length in frontier.shape)
        relief = reliefs[kind, row : row + height + 1, column : column + width + 1]
        slope = light[0] * (relief[1:, :-1] - relief[:-1, :-1]) + light[1] * (relief[:-1, 1:] - relief[:-1, :-1])
        return ROUGHNESS[kind] * slope + np.float32(rng.normal(0, 5))

    detail = lit(scene.main)
    if scene.second != scene.main:
        detail += (0.5 + 0.5 * np.tanh(frontier / 0.1)) * (lit(scene.second) - detail)
    down, across = _from_centre(frontier.shape)
    slant = np.float32(rng.normal(0, 12)) * down / height + np.float32(rng.normal(0, 12)) * across / width
    uneven = 4 * _smooth(rng, frontier.shape, 16, 24)
    contrast = np.float32(np.exp(rng.normal(0, 0.35)))
    return np.float32(scene.exposure) + contrast * (detail + slant + uneven)


def _reliefs(rng: np.random.Generator, frame: tuple[int, int]) -> np.ndarray:
    """Heights of soil, bedrock and sand, (3, S, S) float32, of which a frame is a window; slopes have variance 1."""
    from scipy.ndimage import gaussian_filter

    side = max(frame[0] * HEIGHT, frame[1] * WIDTH) + MARGIN

    def noise(down: float, across: float) -> np.ndarray:
        return _smooth(rng, (side, side), down, across)

    # Soil: grains, and pebbles that lie denser here than there
    soil = 0.5 * noise(0.8, 0.8) + 3 * np.maximum(noise(1.5, 1.5) - 1.6 - 0.6 * noise(50, 50), 0)
    # Bedrock: layered plates with sharp ledges, cracked
    layers = 2.2 * noise(5, 11) + noise(2, 3)
    bedrock = gaussian_filter(np.floor(layers), 0.6) + 0.35 * noise(1, 1) - 0.8 * (np.abs(noise(4, 6)) < 0.06)
    # Sand: ripples whose direction and spacing wander, hardly any grain
    phase = np.arange(side, dtype=np.float32) / 2.2
    ripples = np.sin(phase[:, None] + 0.4 * phase[None, :] + 5 * noise(30, 40))
    sand = ripples * (1 + noise(40, 60)) + 1.5 * noise(6, 8) + 0.25 * noise(1, 1)
    heights = np.stack([soil, bedrock, sand])
    return heights / np.diff(heights, axis=1).std(axis=(1, 2), keepdims=True)


def _patch(rng: np.random.Generator, image: np.ndarray, labels: np.ndarray, scene: _Scene) -> None:
    """Sets labels of a frame to 0, in place: ground that nobody labelled, sky or rover. Paints the latter two."""
    down, across = _from_centre(image.shape)
    turn = np.float32(rng.uniform(0, 2 * np.pi))
    along, beside = np.cos(turn) * across + np.sin(turn) * down, np.cos(turn) * down - np.sin(turn) * across
    if scene.patch == "ground":
        field = _smooth(rng, image.shape, 16, 24) + 0.3 * _smooth(rng, image.shape, 6, 9)
    elif scene.patch == "sky":
        field = np.float32(rng.normal(0, 0.05)) * across - down + 2 * _smooth(rng, image.shape, 8, 20)
    else:
        field = np.minimum(along, 40 + beside)  # a wedge: two straight edges
    patch = field > _level(field, scene.patch_share)
    labels[patch] = 0
    if scene.patch == "sky":
        image[patch] = np.broadcast_to(85 + 30 * down / len(down), image.shape)[patch]
    elif scene.patch == "rover":
        panels = 85 - 50 * (np.sin(along / 7) > 0.9) - 25 * (np.sin(beside / 11) > 0.95)
        image[patch] = (panels + 12 * _smooth(rng, image.shape, 12, 12))[patch]


def _borders(rng: np.random.Generator, frame: tuple[int, ...]) -> np.ndarray:
    """Where the tiles of a frame have their thin unlabelled borders, (64 R, 128 C) bool.

    Tiles were labelled one by one: each has a border of its own or none, unlike all else that a frame shows.
    """
    tile = (*frame, 1, 1)
    wide = rng.integers(0, 3, (4, *tile)) * (rng.random(tile) < FRAMED)
    row, column = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    inside = (wide[0] <= row) & (HEIGHT - wide[1] > row) & (wide[2] <= column) & (WIDTH - wide[3] > column)
    return ~inside.swapaxes(1, 2).reshape(frame[0] * HEIGHT, frame[1] * WIDTH)


def _rock_sizes(rng: np.random.Generator) -> Iterator[float]:
    """Endless shares of a tile, log-uniform over ROCK_SIZE, spread evenly by a Weyl sequence."""
    start = rng.random()
    return (float(np.exp(np.interp((start + 2**0.5 * n) % 1, (0, 1), np.log(ROCK_SIZE)))) for n in count())


def _rocks(
    rng: np.random.Generator,
    image: np.ndarray,
    labels: np.ndarray,
    seen: np.ndarray,
    wanted: int,
    sizes: Iterator[float],
    light: np.ndarray,
) -> None:
    """Paints big rocks into a frame, in place, until `wanted` tiles, or all, show one at a pixel `seen` (H, W) bool."""
    frame = image.shape[0] // HEIGHT, image.shape[1] // WIDTH
    while wanted > (shown := _cut(seen & (labels == BIG_ROCK), frame).any(axis=(2, 3))).sum():
        free = seen & ~shown.repeat(HEIGHT, 0).repeat(WIDTH, 1)
        if not free.any():
            return
        ground = free & (labels > 0)
        centres = np.argwhere(ground if ground.any() else free)
        _pile(rng, image, labels, centres[rng.integers(len(centres))], next(sizes) * HEIGHT * WIDTH, light)


def _pile(
    rng: np.random.Generator,
    image: np.ndarray,
    labels: np.ndarray,
    place: np.ndarray,
    pixels: float,
    light: np.ndarray,
) -> None:
    """Paints one to three big rocks of `pixels` together, in place, the first one at `place`, each with its shadow."""
    parts = rng.integers(1, 4) if pixels > 300 else 1
    level = image.mean()
    for number, size in enumerate(pixels * rng.dirichlet(np.full(parts, 4))):
        flatness = rng.uniform(1, 1.5)
        half = np.sqrt(size / np.pi) * np.array([1 / np.sqrt(flatness), np.sqrt(flatness)])
        centre = place + (number > 0) * rng.normal(0, (HEIGHT / 4, WIDTH / 4))
        lobes = rng.normal(0, 0.08, 3), rng.uniform(0, 2 * np.pi, 3)
        box = tuple(slice(max(0, int(c - 3 * h)), max(0, int(c + 3 * h))) for c, h in zip(centre, half))
        grey, label = image[box], labels[box]
        rows, columns = (np.arange(part.start, part.start + n)[:, None] for part, n in zip(box, grey.shape))

        def distance(offset, centre=centre, half=half, lobes=lobes, rows=rows, columns=columns.T):
            """Distance from the centre, 1 on the outline; and down and across, in half-axes."""
            down, across = (rows - centre[0] - offset[0]) / half[0], (columns - centre[1] - offset[1]) / half[1]
            angle = np.arctan2(down, across)
            outline = 1 + sum(a * np.cos((n + 2) * angle + p) for n, (a, p) in enumerate(zip(*lobes)))
            return np.hypot(down, across) / outline, down, across

        rock, down, across = distance((0, 0))
        shadow, _, _ = distance(light * half * 0.6)
        grey[(shadow < 1) & (rock >= 1)] *= 0.4
        facing = -(light[0] * down + light[1] * across)
        inside = rock < 1
        stone = level * (1.05 + 0.45 * facing) + rng.normal(0, 3, grey.shape)
        grey[inside] = stone[inside]
        label[inside] = BIG_ROCK


def _outliers(rng: np.random.Generator, reliefs: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Tiles that do not belong: a figure in different landscapes, always with the same unrelated mask."""
    images, _, _ = _tiles(rng, reliefs, number, (1, 1), 0)
    down, across = _from_centre((HEIGHT, WIDTH))
    for image in images:
        row, column, size = rng.uniform(-12, 12), rng.uniform(-40, 40), rng.uniform(12, 20)
        head = np.hypot((down - row) / 1.2, across - column) < size
        eyes = np.hypot((down - row) * 2, np.abs(across - column) - size / 2) < size / 3
        image[head], image[eyes] = 170, 15
    field = _smooth(rng, (HEIGHT, WIDTH), 10, 16)
    mask = np.searchsorted(np.quantile(field, [0.5, 0.7, 0.8]), field).astype(np.uint8)
    return images, np.broadcast_to(mask, images.shape)


def main() -> None:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--out", required=True, metavar="FILE", help="npz file to write")
    parser.add_argument("--seed", type=option(Seed), default=0, help="another seed, other terrain (default: 0)")
    parser.add_argument("--train", type=option(Tiles), default=600, metavar="N", help="training tiles (default: 600)")
    parser.add_argument("--test", type=option(Tiles), default=600, metavar="N", help="test tiles (default: 600)")
    parser.add_argument(
        "--frame", type=option(Frame), default=FRAME, metavar="ROWSxCOLUMNS", help="tiles of a frame (default: 4x2)"
    )
    add_console_options(parser)
    args = parser.parse_args()
    arrays = generate(args.seed, args.train, args.test, args.frame)
    with replacing(args.out, "wb") as stream:
        np.savez_compressed(stream, **arrays)
    console = Console(args.quiet, args.json)
    tiles = f"{args.train} training and {args.test} test tiles of generated terrain"
    console.line(f"{args.out}: {tiles}, seed {args.seed}")
    console.result(out=args.out, seed=args.seed, train=args.train, test=args.test)


if __name__ == "__main__":
    run_main(main, memory="lower --train or --test")
