"""Training tiles: augmented images with their masks, each drawn from (seed, epoch, tile, repeat) alone.

python -m lib.augment --draw augmentation.png [--data FILE]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lib.config import Config, Seed
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.context import beside, zoomed
from lib.cutouts import Composer, cut_out, paste_rocks
from lib.data import load
from lib.figures import colour_mask, tile_grid
from lib.general import General
from lib.schema import option
from lib.task import BIG_ROCK, CLASSES
from lib.views import OPERATIONS

Transform = Callable[
    [np.ndarray, np.ndarray, Sequence[np.random.Generator]], tuple[np.ndarray, np.ndarray]
]  # images and masks (B, H, W) uint8 with a generator each -> the same, changed

Windows = Callable[[np.ndarray], np.ndarray]

RISE = 1 / 3  # of its epochs, until semi=consistency shows as many tiles without labels as it shall

# What --draw shows: the config fields that each approach sets, all others off
APPROACHES: dict[str, dict[str, object]] = {
    "flip and two-dimensional shift": dict(flip=0.5, shift_down=32, shift_across=64),
    "copy-paste": dict(copy_paste=1.0),
    "copy-paste in place": dict(copy_paste=1.0, paste_in_place=True),
    "general": dict(general=1.0),
    "RandAugment": dict(randaugment=1.0),
    "compositional synthesis": dict(synthesis=1.0),
    "CutMix": dict(cutmix=1.0),
}
NOTHING: dict[str, Any] = dict(
    flip=0.0, shift_down=0, shift_across=0, copy_paste=0.0, general=0.0, randaugment=0.0, synthesis=0.0, cutmix=0.0
)


class Augmenter:
    """Draws augmented tiles of one training fold.

    Args:
        images, masks: (N, H, W) uint8, the training fold ONLY: cutouts are taken from it. Never changed.
        config: which augmentations, how often, and the seed.
        windows: of indices (B,) into the tiles, what a network sees around these: Surroundings.windows.
        labelled: how many of the tiles, the first, have labels of people, and so may be cut out of; default: all.

    Raises:
        UserError: when the config asks for rocks and the fold has none, or for keras-cv and it is missing.
    """

    def __init__(
        self,
        images: np.ndarray,
        masks: np.ndarray,
        config: Config,
        windows: Windows | None = None,
        labelled: int | None = None,
    ):
        self.images, self.masks, self.config, self.windows = images, masks, config, windows
        self._partners = np.arange(len(images))
        images, masks = images[:labelled], masks[:labelled]
        for name in ("copy_paste", "general", "randaugment", "synthesis"):
            if getattr(config, name) and not (masks == BIG_ROCK).any():
                raise UserError(f"{name}: no tile of the training fold shows big rock; set {name}=0")
        self.rocks = cut_out(images, masks, BIG_ROCK) if config.copy_paste else []
        if config.copy_paste and not self.rocks:
            raise UserError("copy_paste: the training fold shows no big rock worth pasting; set copy_paste=0")
        self.composer = Composer(images, masks) if config.synthesis else None
        self.general: tuple[tuple[float, Transform], ...] = ()
        if config.general or config.randaugment:
            general = General()
            pixels = np.bincount(masks.ravel(), minlength=len(CLASSES))
            rarest = 1 + int(pixels[1:].argmin())
            self.rare = (self.masks == rarest).any(axis=(1, 2))
            self.general = ((config.general, general.transform), (config.randaugment, general.randaugment))

    def relabel(self, labelled: int, indices: np.ndarray, masks: np.ndarray) -> None:
        """Gives tiles without labels of people other ones, in place.

        Args:
            labelled: how many have labels of people.
            indices: (n,) of the tiles that get any; the others, unsure altogether, are mixed with nothing.
            masks: (n, H, W) uint8.
        """
        self.masks[labelled:] = 0
        self.masks[indices] = masks
        self._partners = np.append(np.arange(labelled), indices)

    def __call__(self, index: int, epoch: int, repeat: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask (H, W) uint8 of tile `index` as this epoch shows it for the `repeat`-th time, from 0."""
        images, masks = self.batch([index], epoch, [repeat])
        return images[0], masks[0]

    def batch(self, indices, epoch: int, repeats) -> tuple[np.ndarray, np.ndarray]:
        """Images and masks (B, H, W) uint8 of tiles `indices` (B,): row by row what a call for each gives.

        With `windows`, images are (B, H, W, C), as lib.context.beside has them.
        """
        indices = np.asarray(indices)
        images, masks = self.images[indices], self.masks[indices]
        rngs = [generator(self.config.seed, epoch, int(i), int(r)) for i, r in zip(indices, repeats)]
        for share, operation in self.general:
            rows = np.flatnonzero(self.rare[indices] & (np.array([rng.random() for rng in rngs]) < share))
            if len(rows):
                images[rows], masks[rows] = operation(images[rows], masks[rows], [rngs[row] for row in rows])
        for image, mask, rng in zip(images, masks, rngs):
            self._paste(image, mask, rng)
        if self.windows:
            images = beside(images, self.windows(indices))
        for image, mask, rng in zip(images, masks, rngs):
            self._move(image, mask, rng)
            self._mix(image, mask, rng)
        return images, masks

    def _paste(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
        if rng.random() < self.config.synthesis and self.composer:
            self.composer.compose(image, mask, rng)
        if rng.random() < self.config.copy_paste:
            paste_rocks(image, mask, self.rocks, self.config.paste_in_place, rng)

    def _move(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
        down, across = self.config.shift_down, self.config.shift_across
        tile, *around = np.moveaxis(image.reshape(*mask.shape, -1), -1, 0)
        parts = [np.stack([tile, mask])] + ([np.stack(around)] if around else [])
        if rng.random() < self.config.flip:
            parts = [OPERATIONS["hflip"].apply(part) for part in parts]
        if down or across:
            shift = rng.integers(-down, down + 1), rng.integers(-across, across + 1)
            shifts = shift, tuple(map(zoomed, shift))
            parts = [OPERATIONS["shift"].apply(part, *by) for part, by in zip(parts, shifts)]
        tile[...], mask[...] = parts[0]
        for plane, moved in zip(around, parts[-1]):
            plane[...] = moved

    def _mix(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
        """CutMix (Yun et al. 2019; for segmentation French et al. 2020): a rectangle of a tile's shape, of any area."""
        if rng.random() >= self.config.cutmix:
            return
        other, side = self._partners[rng.integers(len(self._partners))], rng.random() ** 0.5
        height, width = (round(side * size) for size in mask.shape)
        top, left = rng.integers(mask.shape[0] - height + 1), rng.integers(mask.shape[1] - width + 1)
        box = slice(top, top + height), slice(left, left + width)
        tile = image.reshape(*mask.shape, -1)[..., 0]  # without what lies around it
        tile[box], mask[box] = self.images[other][box], self.masks[other][box]


def epoch_tiles(masks: np.ndarray, config: Config, epoch: int, unlabelled: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The tiles that an epoch shows, shuffled by (seed, epoch): each once, those with big rock `oversample` times.

    Of tiles without labels of people, which follow them, the config's share: all in turn, before one comes again. With
    semi=consistency there are none of them at first, and tiles of the fold again in their place.

    Args:
        masks: (N, H, W) uint8, the training fold.
        unlabelled: how many tiles there are besides.

    Returns:
        indices (L,) into the fold and what follows it, and repeats (L,): the how-manieth showing of that tile, from 0.
    """
    counts = np.where((masks == BIG_ROCK).any(axis=(1, 2)), config.oversample, 1)
    indices = np.repeat(np.arange(len(masks)), counts)
    repeats = np.concatenate([np.arange(count) for count in counts])
    rng = generator(config.seed, epoch)
    if unlabelled:
        *earlier, shown = (_unlabelled_shown(config, each, len(masks)) for each in range(epoch + 1))
        turns = np.arange(sum(earlier), sum(earlier) + shown)
        taken = len(masks) + generator(config.seed).permutation(unlabelled)[turns % unlabelled]
        again = turns // unlabelled - sum(earlier) // unlabelled
        indices, repeats = np.append(indices, taken), np.append(repeats, again)
        left = np.arange(round(config.unlabelled * len(masks)) - shown)
        if len(left):
            instead = rng.permutation(len(masks))[left % len(masks)]
            indices, repeats = np.append(indices, instead), np.append(repeats, counts[instead] + left // len(masks))
    order = rng.permutation(len(indices))
    return indices[order], repeats[order]


def _unlabelled_shown(config: Config, epoch: int, labelled: int) -> int:
    """How many tiles without labels of people an epoch shows beside so many with them."""
    rise = min(1.0, epoch / (RISE * config.epochs)) if config.semi == "consistency" else 1.0
    return round(rise * config.unlabelled * labelled)


def generator(seed: int, *key: int) -> np.random.Generator:
    """A random stream of its own for each key: (epoch,) or (epoch, tile, repeat)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def draw(path: str, images: np.ndarray, masks: np.ndarray, seed: int = 0) -> None:
    """Writes a PNG: tiles and masks before and after each of APPROACHES, two tiles each.

    Args:
        images, masks: (N, H, W) uint8. Of the tiles with most big rock, or with most labels, `seed` draws two.

    Raises:
        UserError: as `Augmenter`.
    """
    nothing = Config(**NOTHING, seed=seed)
    rng = generator(seed)
    rock, ground = (masks == BIG_ROCK).mean(axis=(1, 2)), (masks > 0).mean(axis=(1, 2))
    rows, names = [], []
    for name, fields in APPROACHES.items():
        augmenter = Augmenter(images, masks, nothing.replace(**fields))
        shown = rock if augmenter.general else ground
        best = np.argsort(-shown, kind="stable")[: max(len(shown) // 50, 2)]
        for index in rng.permutation(best)[:2]:
            image, mask = augmenter(index, epoch=0)
            rows.append([images[index], colour_mask(masks[index]), image, colour_mask(mask)])
            names.append(name)
    tile_grid(path, rows, ("tile", "mask", "tile after", "mask after"), names)


def main() -> None:
    """The command line."""
    parser = ArgumentParser("Draws what each augmentation makes of some tiles.", prog="python -m lib.augment")
    parser.add_argument("--draw", metavar="PNG", required=True, help="picture to write: before and after")
    parser.add_argument("--data", metavar="FILE", help="npz with training_set; default: as train.py finds it")
    parser.add_argument("--seed", type=option(Seed), default=0, help="another seed draws other tiles")
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)

    data = load(args.data, test=False)
    clean = ~data.outliers
    if not clean.any():
        raise UserError(f"{data.source}: no training tiles in it; name a file with training_set")
    draw(args.draw, data.images[clean], data.masks[clean], args.seed)
    console.facts(data=data.source, tiles=int(clean.sum()), picture=args.draw)
    console.result(data=data.source, picture=args.draw)


if __name__ == "__main__":
    run_main(main)
