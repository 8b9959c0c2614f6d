"""What the data is: class balance, samples of each class, outliers, duplicates; in numbers, words and a picture.

python -m lib.audit FILE                        what is in it
python -m lib.audit FILE --json                 the same for scripts
python -m lib.audit FILE --picture audit.png    the same to look at
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib import figures
from lib.console import ArgumentParser, Console, add_console_options, run_main
from lib.data import MUCH_ROCK, Dataset, load, repeats
from lib.task import BIG_ROCK, CLASSES, HEIGHT, WIDTH

SAMPLES = 4  # tiles shown of each class


@dataclass(frozen=True)
class Audit:
    """What a picture of the data shows. Tile numbers are indices into the training tiles.

    `facts`: see `facts`; `samples`: up to four clean tiles by label; `outliers`: groups that share one mask, the
    largest first; `duplicates`: groups of training tiles with one and the same image; `leaked`: clean training tiles
    whose image is a test tile too.
    """

    facts: dict[str, Any]
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


def facts(dataset: Dataset) -> dict[str, Any]:
    """The audit in numbers, ready for JSON. Pixels and classes are those of the clean tiles."""
    clean = np.flatnonzero(~dataset.outliers)
    masks = dataset.masks[clean]
    counts = np.array([np.bincount(mask.ravel(), minlength=len(CLASSES)) for mask in masks]).reshape(-1, len(CLASSES))
    pixels, total = counts.sum(axis=0), max(1, counts.sum())
    alike = repeats(masks)
    rock = counts[:, BIG_ROCK]
    return {
        "source": dataset.source,
        "digest": dataset.digest,
        "training_tiles": len(dataset.masks),
        "clean_tiles": len(clean),
        "test_tiles": len(dataset.test),
        "outliers": np.flatnonzero(dataset.outliers).tolist(),
        "pixels": dict(zip(CLASSES, pixels.tolist())),
        "pixel_shares": dict(zip(CLASSES, (pixels / total).tolist())),
        "tiles_by_class": dict(zip(CLASSES, (counts > 0).sum(axis=0).tolist())),
        "tiles_with_big_rock": int((rock > 0).sum()),
        "tiles_with_much_big_rock": int((rock > MUCH_ROCK * HEIGHT * WIDTH).sum()),
        "single_class_masks": int(((counts > 0).sum(axis=1) == 1).sum()),
        "repeated_masks": {"masks": len(alike), "tiles": sum(map(len, alike))},
        "identical_images": [group.tolist() for group in repeats(dataset.images)],
    }


def draw(path: str | os.PathLike, found: Audit, dataset: Dataset) -> None:
    """Writes a PNG of the data's audit: class bars in pixels and tiles, samples of each class, outliers, duplicates.

    Args:
        path: the PNG to write.
        found: from `audit`.
        dataset: the data that it speaks of.
    """
    across, gap, margin, bars = 1.28, 0.06, 1.0, 2.0  # inches: a tile pixel is a pixel
    down = across * dataset.images.shape[1] / dataset.images.shape[2]
    # Each strip: a name, and up to eight panels under it
    pairs = [(CLASSES[label], _pairs(dataset, found.samples[label])) for label in range(len(CLASSES))]
    strips = [(name, panels) for name, panels in pairs if panels]
    for group in found.outliers[:2]:
        panels = [figures.colour_mask(dataset.masks[group[0]]), *dataset.images[group[:7]]]
        strips.append((f"{len(group)} outliers:\none mask on\nall of them", panels))
    for group in found.duplicates[:2]:
        strips.append((f"{len(group)} tiles of\none image", _pairs(dataset, group[:4])))
    width = margin + 8 * (across + gap)
    height = bars + 0.7 + len(strips) * (down + gap) + 0.5
    figure = figures.new_figure((width, height))
    for number, (what, counts, shares) in enumerate(found.balance()):
        left, across_bars = margin + number * width / 2, width / 2 - 2.2
        axes = figure.add_axes((left / width, 1 - (bars - 0.05) / height, across_bars / width, (bars - 0.4) / height))
        axes.barh(CLASSES, shares, color=figures.PALETTE / 255, edgecolor="#555")
        for label, (share, count) in enumerate(zip(shares, counts)):
            text = f"{share:.2%}  ({count:,})"
            axes.annotate(text, (share, label), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.invert_yaxis()
        axes.set_title(what, fontsize=10, weight="bold", loc="left")
        axes.set_xticks([])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    figures.text_at(figure, gap, bars + 0.2, " ".join(found.sentences()), fontsize=9, va="top")
    figures.text_at(figure, gap, bars + 0.42, "Samples: tile and mask", fontsize=9, va="top", weight="bold")
    for number, (name, panels) in enumerate(strips):
        upper = bars + 0.65 + number * (down + gap)
        figures.text_at(figure, gap, upper + down / 2, name, va="center", fontsize=8)
        for column, pixels in enumerate(panels):
            figures.panel(figure, margin + column * (across + gap), upper, across, pixels)
    figures.legend(figure)
    figures.save(figure, path)


def _spread(pixels: np.ndarray) -> np.ndarray:
    """Positions of up to SAMPLES tiles, spread over the half of those with a class that show most of it."""
    showing = np.flatnonzero(pixels)
    showing = showing[np.argsort(pixels[showing], kind="stable")][len(showing) // 2 :]
    return showing[np.unique(np.linspace(0, len(showing) - 1, SAMPLES).astype(int))] if len(showing) else showing


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _pairs(dataset: Dataset, tiles: np.ndarray) -> list[np.ndarray]:
    return [pixels for tile in tiles for pixels in (dataset.images[tile], figures.colour_mask(dataset.masks[tile]))]


def report(found: dict, console: Console) -> None:
    """The audit as text."""
    console.facts(
        data=found["source"],
        training_tiles=f"{found['training_tiles']:,}, {found['clean_tiles']:,} of them clean",
        test_tiles=f"{found['test_tiles']:,}",
        outliers=f"{len(found['outliers'])} removed: different images that share one mask to the pixel",
        big_rock=f"{found['tiles_with_big_rock']} tiles, {found['tiles_with_much_big_rock']} with more than 10 %",
        single_class=f"{found['single_class_masks']} masks",
        repeated_masks="{masks} honest masks on {tiles} tiles".format(**found["repeated_masks"]),
        identical_images=f"{len(found['identical_images'])} groups",
    )
    console.line()
    console.table(
        ["class", "pixels", "share in %", "tiles"],
        [
            [name, f"{pixels:,}", f"{100 * found['pixel_shares'][name]:.2f}", found["tiles_by_class"][name]]
            for name, pixels in found["pixels"].items()
        ],
    )


def main() -> None:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("file", nargs="?", help="npz file; default: the competition's, else generated terrain")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw it: classes, samples, outliers, duplicates")
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)
    dataset = load(args.file)
    found = facts(dataset)
    report(found, console)
    if args.picture:
        draw(args.picture, audit(dataset), dataset)
        console.line(f"\n{args.picture}: drawn")
    console.result(**found)


if __name__ == "__main__":
    run_main(main)
