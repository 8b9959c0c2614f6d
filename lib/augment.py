"""Training tiles: augmented images with their masks, each drawn from (seed, epoch, tile, repeat) alone."""

from __future__ import annotations

import numpy as np

from lib.config import Config
from lib.console import UserError
from lib.cutouts import Cutout, choose_place, cut_out, paste
from lib.metrics import CLASSES
from lib.views import OPERATIONS, apply_view, invert_view  # noqa: F401  (the table serves training and test time)

BIG_ROCK = CLASSES.index("big rock")
PASTED = (3, 5)  # rocks pasted on a tile (report, section 3.1)
ROCK_SHARE = 1 / 8  # of a tile that pasted rocks may cover together; large ones are fewer


class Augmenter:
    """Draws augmented tiles of one training fold.

    Args:
        images, masks: (N, 64, 128) uint8, the training fold ONLY: cutouts are taken from it. Never changed.
        config: which augmentations, how strong, and the seed.

    Raises:
        UserError: when the config asks for rocks and no tile of the fold shows one.
    """

    def __init__(self, images: np.ndarray, masks: np.ndarray, config: Config):
        self.images, self.masks, self.config = images, masks, config
        self.rocks: list[Cutout] = cut_out(images, masks, BIG_ROCK) if config.copy_paste else []
        if config.copy_paste and not self.rocks:
            raise UserError("copy_paste: no tile of this training fold shows big rock; set copy_paste=0")

    def __call__(self, index: int, epoch: int, repeat: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Image and mask (H, W) uint8 of tile `index` as this epoch shows it for the `repeat`-th time."""
        images, masks = self.batch([index], epoch, [repeat])
        return images[0], masks[0]

    def batch(self, indices, epoch: int, repeats) -> tuple[np.ndarray, np.ndarray]:
        """Images and masks (B, H, W) uint8: row by row what a call for each tile gives."""
        indices = np.asarray(indices)
        images, masks = self.images[indices], self.masks[indices]
        generators = [generator(self.config.seed, epoch, int(i), int(r)) for i, r in zip(indices, repeats)]
        for image, mask, rng in zip(images, masks, generators):
            self._paste_rocks(image, mask, rng)
            self._move(image, mask, rng)
        return images, masks

    def _paste_rocks(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
        if rng.random() >= self.config.copy_paste:
            return
        room = ROCK_SHARE * mask.size
        wanted = rng.integers(PASTED[0], PASTED[1] + 1)
        for number, choice in enumerate(rng.integers(len(self.rocks), size=wanted)):
            rock = self.rocks[choice]
            room -= rock.area
            if number and room < 0:
                break
            in_place = self.config.paste_in_place
            top, left = (rock.top, rock.left) if in_place else choose_place(rock, mask.shape, rng)
            paste(image, mask, rock, top, left)

    def _move(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
        """Random flip and two-dimensional shift."""
        down, across = self.config.shift_down, self.config.shift_across
        pair = np.stack([image, mask])
        if rng.random() < self.config.flip:
            pair = OPERATIONS["hflip"].apply(pair)
        if down or across:
            shift = rng.integers(-down, down + 1), rng.integers(-across, across + 1)
            pair = OPERATIONS["shift"].apply(pair, *shift)
        image[...], mask[...] = pair


def epoch_tiles(masks: np.ndarray, config: Config, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The tiles that an epoch shows, shuffled by (seed, epoch): each once, those with big rock `oversample` times.

    Args:
        masks: (N, H, W) uint8, the training fold.

    Returns:
        indices (L,) into the fold, and repeats (L,): the how-manieth showing of that tile, from 0.
    """
    counts = np.where((masks == BIG_ROCK).any(axis=(1, 2)), config.oversample, 1)
    indices = np.repeat(np.arange(len(masks)), counts)
    repeats = np.concatenate([np.arange(count) for count in counts])
    order = generator(config.seed, epoch).permutation(len(indices))
    return indices[order], repeats[order]


def generator(seed: int, *key: int) -> np.random.Generator:
    """A random stream of its own for each key: (epoch,) or (epoch, tile, repeat)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
