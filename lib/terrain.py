"""Generated Mars-like terrain in the competition's format: what the project runs on where there is no data file.

    python -m lib.terrain --out terrain.npz [--seed 0] [--train 600] [--test 600]

Soil, bedrock and sand differ in relief, not in brightness: each tile has its own light, exposure and contrast, so that
the grey levels of all classes overlap. Class shares, unlabelled parts, rarity of big rock and outliers are the
competition's; they are dealt out over the tiles rather than drawn, so that every seed meets them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field

from lib.config import Seed
from lib.console import ArgumentParser, Console, add_console_options, run_main
from lib.files import replacing
from lib.schema import option
from lib.task import BIG_ROCK, HEIGHT, WIDTH

MAIN = (0.464, 0.304, 0.232)  # shares of tiles whose main class is soil, bedrock, sand
TWO_CLASSES = 0.25  # share of tiles that show a second class; it takes SECOND of the tile
SECOND = (0.1, 0.5)
UNLABELLED = ((0.0, 0.45, 0.6, 0.75, 0.9, 0.97, 1.0), (0.0, 0.0, 0.1, 0.38, 0.8, 0.97, 1.0))
"""Quantiles over the tiles, and the share of the tile that an unlabelled patch takes there."""
FRAMED = 0.5  # share of tiles with an unlabelled frame of one or two pixels
ROCKY = 0.025  # share of tiles with big rock, which takes ROCK_SIZE of the tile, log-uniform
ROCK_SIZE = (0.004, 0.2)
FEWEST_ROCKY = 5  # training tiles with big rock in a small set, one for each fold, but no more than every eighth
OUTLIERS = 0.042  # share of training tiles: different images, one mask

RELIEF_SIZE = 512  # side of the square of each class's ground that tiles are windows of
ROUGHNESS = np.array([6.5, 8.0, 3.0], np.float32)  # grey levels of soil's, bedrock's and sand's relief

Tiles = Annotated[int, Field(ge=0, le=100_000)]
ROWS = np.arange(HEIGHT, dtype=np.float32)[:, None]
COLUMNS = np.arange(WIDTH, dtype=np.float32)[None, :]


def generate(seed: int = 0, train: int = 600, test: int = 600) -> dict[str, np.ndarray]:
    """Draws a data set. Equal arguments give equal bytes on one machine; the test tiles do not depend on `train`.

    Another kind of processor may round a few grey levels otherwise.

    Returns:
        training_set (train, 2, 64, 128) uint8: grey image 0..255 and labels 0..4, outliers among them;
        test_set (test, 64, 128) uint8, and its labels test_masks (test, 64, 128) uint8.
    """
    rng, test_rng = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    outliers = round(OUTLIERS * train) if train >= 50 else 0  # a lone one shares its mask with none
    reliefs = _reliefs(rng)
    images, masks = _tiles(rng, train - outliers, reliefs, min(FEWEST_ROCKY, (train - outliers) // 8))
    outlier_images, outlier_masks = _outliers(rng, outliers, reliefs)
    training_set = np.stack([np.concatenate([images, outlier_images]), np.concatenate([masks, outlier_masks])], axis=1)
    test_images, test_masks = _tiles(test_rng, test, _reliefs(test_rng))
    return {"training_set": rng.permutation(training_set), "test_set": test_images, "test_masks": test_masks}


def _tiles(
    rng: np.random.Generator, count: int, reliefs: np.ndarray, fewest_rocky: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Honest tiles in random order, windows of `reliefs`: images and masks, (count, 64, 128) uint8."""
    main, second, second_share, patch_share = _deal(rng, count)
    frontier = _smooth(rng, count, 14, 24)
    level = _level(frontier, second_share)
    light = _Light.draw(rng, count)
    images = _ground(rng, reliefs, main, second, frontier - level, light)
    # The crowd draws borders by hand: near the true ones, not on them
    drawn = frontier + 0.1 * _smooth(rng, count, 4, 6) > level
    masks = np.where(drawn, second[:, None, None], main[:, None, None]).astype(np.uint8) + np.uint8(1)
    _unlabel(rng, images, masks, patch_share)
    rocky = rng.permutation(count)[: max(fewest_rocky, int(np.ceil(ROCKY * count)))]
    sizes = np.geomspace(*ROCK_SIZE, 2 * len(rocky) + 1)[1::2]
    for tile, size in zip(rocky, sizes):
        _rocks(rng, images[tile], masks[tile], size * HEIGHT * WIDTH, light.direction[tile])
    images += rng.standard_normal(images.shape, dtype=np.float32) * rng.uniform(0.5, 2.5, (count, 1, 1))
    order = rng.permutation(count)
    return images[order].clip(0, 255).astype(np.uint8), masks[order]


def _deal(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """Main class, second class, the share of the latter, share of the unlabelled patch: (count,) each, by main class.

    A Weyl sequence (multiples of irrationals, modulo 1) spreads each of them evenly over every stretch of tiles, and so
    over each class: shares come out alike for every seed, which independent draws would not achieve with 600 tiles.
    """
    number = np.arange(count)
    main = np.searchsorted(np.cumsum(MAIN)[:-1], (number + 0.5) / max(1, count))
    two, share, patch = (np.outer(np.sqrt([2, 3, 5]), number) + rng.random((3, 1))) % 1
    second = np.where(two < TWO_CLASSES, (main + 1 + (two < TWO_CLASSES / 2)) % 3, main)
    second_share = np.where(second == main, 0, np.interp(share, (0, 1), SECOND))
    return main, second, second_share, np.interp(patch, *UNLABELLED)


def _smooth(rng: np.random.Generator, count: int, down: float, across: float, size=(HEIGHT, WIDTH)) -> np.ndarray:
    """Gaussian random fields (count, *size) float32 of mean 0, variance 1 and the given scales in pixels."""

    def blur(length: int, scale: float) -> np.ndarray:
        centres = np.arange(-2 * scale, length + 2 * scale, scale)
        kernel = np.exp(-0.5 * ((np.arange(length)[:, None] - centres) / scale) ** 2)
        return (kernel / np.linalg.norm(kernel, axis=1, keepdims=True)).astype(np.float32)

    rows, columns = blur(size[0], down), blur(size[1], across)
    return rows @ rng.standard_normal((count, rows.shape[1], columns.shape[1]), dtype=np.float32) @ columns.T


def _level(fields: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Per tile the level above which a field lies on `share` of the tile: (count, 1, 1) float32; infinite for none."""
    values = np.sort(fields[:, ::4, ::4].reshape(len(fields), HEIGHT * WIDTH // 16), axis=1)
    rank = ((1 - shares) * (values.shape[1] - 1)).astype(int)
    levels = np.where(shares > 0, np.take_along_axis(values, rank[:, None], axis=1)[:, 0], np.inf)
    return levels[:, None, None].astype(np.float32)


@dataclass(frozen=True)
class _Light:
    """How each tile is lit and exposed, (count,) arrays: `direction` (count, 2) is a unit vector, down and across."""

    direction: np.ndarray
    exposure: np.ndarray
    contrast: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int) -> _Light:
        angle = rng.uniform(0, 2 * np.pi, count)
        return cls(
            direction=np.stack([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32),
            exposure=rng.normal(64, 16, count).clip(20, 110).astype(np.float32),
            contrast=np.exp(rng.normal(0, 0.35, count)).astype(np.float32),
        )


def _ground(
    rng: np.random.Generator, reliefs: np.ndarray, main, second, frontier: np.ndarray, light: _Light
) -> np.ndarray:
    """Grey images (count, 64, 128) float32: `second` where `frontier` > 0, `main` elsewhere, blended on the border."""
    count = len(main)
    windows = sliding_window_view(reliefs, (HEIGHT + 1, WIDTH + 1), (1, 2))  # type: ignore[call-overload]  # as documented
    down, across = (light.direction[:, axis, None, None] for axis in (0, 1))

    def lit(kind: np.ndarray) -> np.ndarray:
        corner = rng.integers(0, windows.shape[1:3], (count, 2))
        height = windows[kind, corner[:, 0], corner[:, 1]]
        slope = down * (height[:, 1:, :-1] - height[:, :-1, :-1]) + across * (height[:, :-1, 1:] - height[:, :-1, :-1])
        return slope * ROUGHNESS[kind, None, None] + rng.normal(0, 5, (count, 1, 1)).astype(np.float32)

    blend = 0.5 + 0.5 * np.tanh(frontier / 0.2)
    detail = (1 - blend) * lit(main) + blend * lit(second)
    gradient = rng.normal(0, 8, (2, count, 1, 1)).astype(np.float32)
    slant = gradient[0] * (ROWS / HEIGHT - 0.5) + gradient[1] * (COLUMNS / WIDTH - 0.5)
    uneven = 4 * _smooth(rng, count, 16, 24)
    return light.exposure[:, None, None] + light.contrast[:, None, None] * (detail + slant + uneven)


def _reliefs(rng: np.random.Generator) -> np.ndarray:
    """Heights of soil, bedrock and sand, (3, RELIEF_SIZE, RELIEF_SIZE) float32; slopes have variance 1."""
    from scipy.ndimage import gaussian_filter

    def noise(down: float, across: float) -> np.ndarray:
        return _smooth(rng, 1, down, across, (RELIEF_SIZE, RELIEF_SIZE))[0]

    # Soil: grains, and pebbles that lie denser here than there
    soil = 0.5 * noise(0.8, 0.8) + 3 * np.maximum(noise(1.5, 1.5) - 1.6 - 0.6 * noise(50, 50), 0)
    # Bedrock: layered plates with sharp ledges, cracked
    layers = 2.2 * noise(5, 11) + noise(2, 3)
    bedrock = gaussian_filter(np.floor(layers), 0.6) + 0.35 * noise(1, 1) - 0.8 * (np.abs(noise(4, 6)) < 0.06)
    # Sand: ripples whose direction and spacing wander, hardly any grain
    phase = np.arange(RELIEF_SIZE, dtype=np.float32) / 2.2
    ripples = np.sin(phase[:, None] + 0.4 * phase[None, :] + 5 * noise(30, 40))
    sand = ripples * (1 + noise(40, 60)) + 1.5 * noise(6, 8) + 0.25 * noise(1, 1)
    heights = np.stack([soil, bedrock, sand])
    return heights / np.diff(heights, axis=1).std(axis=(1, 2), keepdims=True)


def _unlabel(rng: np.random.Generator, images: np.ndarray, masks: np.ndarray, share: np.ndarray) -> None:
    """Sets parts of `masks` to 0, in place: patches that nobody labelled, sky, rover, thin frames. Paints the two."""
    count = len(masks)
    kind = rng.choice(3, count, p=(0.6, 0.2, 0.2))[:, None, None]
    tilt = rng.normal(0, 0.05, (count, 1, 1)).astype(np.float32)
    turn = rng.uniform(0, 2 * np.pi, (count, 1, 1)).astype(np.float32)
    along, beside = np.cos(turn) * COLUMNS + np.sin(turn) * ROWS, np.cos(turn) * ROWS - np.sin(turn) * COLUMNS
    fields = np.where(kind == 0, _smooth(rng, count, 10, 16), np.where(kind == 1, tilt * COLUMNS - ROWS, along))
    # The rover is a wedge: two straight edges
    fields = np.where(kind == 2, np.minimum(fields, 40 + beside), fields).astype(np.float32)
    patch = fields > _level(fields, share)
    masks[patch] = 0
    sky = 70 + 30 * ROWS / HEIGHT
    rover = np.where(np.sin(along / 2) > 0.2, 85, 25) + 10 * np.sin(beside / 5)
    np.copyto(images, sky, where=patch & (kind == 1))
    np.copyto(images, rover, where=patch & (kind == 2), casting="same_kind")
    framed = rng.random((count, 1, 1)) < FRAMED
    wide = rng.integers(0, 3, (4, count, 1, 1))
    inside = (wide[0] <= ROWS) & (HEIGHT - wide[1] > ROWS) & (wide[2] <= COLUMNS) & (WIDTH - wide[3] > COLUMNS)
    masks[framed & ~inside] = 0


def _rocks(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, pixels: float, light: np.ndarray) -> None:
    """Paints one to three big rocks of `pixels` together into one tile, in place, each with its shadow."""
    parts = rng.integers(1, 4) if pixels > 300 else 1
    for size in pixels * rng.dirichlet(np.full(parts, 4)):
        flatness = rng.uniform(1, 1.5)
        half = np.sqrt(size / np.pi) * np.array([1 / np.sqrt(flatness), np.sqrt(flatness)])
        centre = rng.uniform(half, np.maximum(half, [HEIGHT, WIDTH] - half))
        lobes = rng.normal(0, 0.08, 3), rng.uniform(0, 2 * np.pi, 3)

        def distance(offset, centre=centre, half=half, lobes=lobes) -> tuple[np.ndarray, ...]:
            """Distance from the centre, 1 on the outline; and down and across, in half-axes."""
            down, across = (ROWS - centre[0] - offset[0]) / half[0], (COLUMNS - centre[1] - offset[1]) / half[1]
            angle = np.arctan2(down, across)
            outline = 1 + sum(a * np.cos((n + 2) * angle + p) for n, (a, p) in enumerate(zip(*lobes)))
            return np.hypot(down, across) / outline, down, across

        rock, down, across = distance((0, 0))
        shadow, _, _ = distance(light * half * 0.6)
        image[(shadow < 1) & (rock >= 1)] *= 0.4
        facing = -(light[0] * down + light[1] * across)
        inside = rock < 1
        level = image.mean()
        stone = level * (1.05 + 0.45 * facing) + rng.normal(0, 3, image.shape)
        image[inside] = stone[inside]
        mask[inside] = BIG_ROCK


def _outliers(rng: np.random.Generator, count: int, reliefs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tiles that do not belong: a figure in different landscapes, always with the same unrelated mask."""
    images, _ = _tiles(rng, count, reliefs)
    for image in images:
        row, column, size = rng.uniform(20, 44), rng.uniform(24, 104), rng.uniform(12, 20)
        head = np.hypot((ROWS - row) / 1.2, COLUMNS - column) < size
        eyes = np.hypot((ROWS - row) * 2, np.abs(COLUMNS - column) - size / 2) < size / 3
        image[head], image[eyes] = 170, 15
    field = _smooth(rng, 1, 10, 16)[0]
    mask = np.searchsorted(np.quantile(field, [0.5, 0.7, 0.8]), field).astype(np.uint8)
    return images, np.broadcast_to(mask, images.shape)


def main() -> None:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--out", required=True, metavar="FILE", help="npz file to write")
    parser.add_argument("--seed", type=option(Seed), default=0, help="another seed, other terrain (default: 0)")
    parser.add_argument("--train", type=option(Tiles), default=600, metavar="N", help="training tiles (default: 600)")
    parser.add_argument("--test", type=option(Tiles), default=600, metavar="N", help="test tiles (default: 600)")
    add_console_options(parser)
    args = parser.parse_args()
    arrays = generate(args.seed, args.train, args.test)
    with replacing(args.out, "wb") as stream:
        np.savez_compressed(stream, **arrays)
    console = Console(args.quiet, args.json)
    console.line(f"{args.out}: {args.train} training and {args.test} test tiles of generated terrain, seed {args.seed}")
    console.result(out=args.out, seed=args.seed, train=args.train, test=args.test)


if __name__ == "__main__":
    run_main(main, memory="lower --train or --test")
