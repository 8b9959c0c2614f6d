"""What the data is, chosen for a picture: class balance, samples of each class, outliers, duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.data import Dataset, facts, repeats
from lib.metrics import CLASSES

SAMPLES = 4  # tiles shown of each class


@dataclass(frozen=True)
class Audit:
    """What a picture of the data shows. Tile numbers are indices into the training tiles.

    `facts`: see lib.data.facts; `samples`: up to four clean tiles by label; `outliers`: groups that share one mask, the
    largest first; `duplicates`: groups of training tiles with one and the same image; `leaked`: clean training tiles
    whose image is a test tile too.
    """

    facts: dict
    samples: dict[int, np.ndarray]
    outliers: list[np.ndarray]
    duplicates: list[np.ndarray]
    leaked: np.ndarray

    def balance(self) -> list[tuple[str, list[int], list[float]]]:
        """Two measures of the classes: (what is measured, counts of labels 0..4, their shares of all)."""
        pixels, tiles = (list(self.facts[key].values()) for key in ("pixels", "tiles_by_class"))
        clean = max(1, self.facts["clean_tiles"])
        return [
            ("pixels", pixels, list(self.facts["pixel_shares"].values())),
            ("tiles that show it", tiles, [count / clean for count in tiles]),
        ]

    def sentences(self) -> list[str]:
        """What was found, in words."""
        clean, test = self.facts["clean_tiles"], self.facts["test_tiles"]
        outliers, duplicates = (sum(map(len, groups)) for groups in (self.outliers, self.duplicates))
        return [
            f"{clean:,} clean training tiles and {test:,} test tiles.",
            f"{outliers} outliers are left out: different images that share {_count(len(self.outliers), 'mask')}."
            if outliers
            else "No outliers: images that differ have masks that differ.",
            f"{duplicates} training tiles repeat an image, in {_count(len(self.duplicates), 'group')}."
            if duplicates
            else "No training image repeats.",
            f"{_count(len(self.leaked), 'training image')} in the test tiles too."
            if len(self.leaked)
            else "No training image is a test tile.",
        ]


def audit(dataset: Dataset) -> Audit:
    """Looks through a dataset."""
    clean, outliers = np.flatnonzero(~dataset.outliers), np.flatnonzero(dataset.outliers)
    found = facts(dataset)
    test = {tile.tobytes() for tile in dataset.test}
    counts = [(dataset.masks[clean] == label).sum(axis=(1, 2)) for label in range(len(CLASSES))]
    return Audit(
        facts=found,
        samples={label: clean[_spread(pixels)] for label, pixels in enumerate(counts)},
        outliers=[outliers[group] for group in repeats(dataset.masks[outliers])],
        duplicates=[np.array(group) for group in found["identical_images"]],
        leaked=np.array([tile for tile in clean if dataset.images[tile].tobytes() in test], np.int64),
    )


def _spread(pixels: np.ndarray) -> np.ndarray:
    """Positions of up to SAMPLES tiles, spread over the half of those with a class that show most of it."""
    showing = np.flatnonzero(pixels)
    showing = showing[np.argsort(pixels[showing], kind="stable")][len(showing) // 2 :]
    return showing[np.unique(np.linspace(0, len(showing) - 1, SAMPLES).astype(int))] if len(showing) else showing


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
