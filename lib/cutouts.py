"""Objects cut out of labelled tiles and pasted on others: copy-paste and compositional synthesis.

Sources: Ghiasi et al., Simple Copy-Paste (arXiv:2012.07177); Wang et al., Image Synthesis via Semantic Composition
(arXiv:2109.07053); report, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lib.console import UserError
from lib.task import BIG_ROCK, CLASSES

SMALLEST = {"rock": 12, "ground": 64}  # pixels; smaller ones are label noise
LARGEST = 0.5  # share of the tile; what covers more is no object but the tile itself
THINNEST = 0.25  # least thickness, as a share of the area's root (a square has 0.5); thinner slivers are label noise
SOFTNESS = {"rock": 0.8, "ground": 2.0}  # standard deviation of the edge's blur, in pixels: ground fades, rocks do not
GAIN = (0.6, 1.6)  # how far a paste may be darkened or lightened

PASTED_ROCKS = (3, 5)  # on a tile (report, section 3.1)
COMPOSED_OBJECTS = (4, 8)  # on a synthetic tile, of all classes
ROCK_SHARE = 1 / 8  # of a tile that pasted rocks may cover together: large ones are fewer
TRIES = 4  # at a place on labelled ground, not on sky or rover


@dataclass(frozen=True)
class Cutout:
    """One connected object with a margin: a box (h, w) of its source tile.

    Attributes:
        tile: index of the source tile.
        label: class of the object.
        top, left: where the box lay.
        shape: (h, w) bool, the object's pixels.
        area: how many they are.
        patch: (h, w) uint8, the image of the box.
        weight: (h, w) uint32 0..256, how much of the patch covers what lies below: soft at the object's edge.
        light: `ground_light` of the source tile.
    """

    tile: int
    label: int
    top: int
    left: int
    shape: np.ndarray
    area: int
    patch: np.ndarray
    weight: np.ndarray
    light: float


def ground_light(image: np.ndarray, mask: np.ndarray) -> float:
    """Mean grey level of a tile's labelled ground: without sky, rover and rocks, unless there is nothing else."""
    ground = (mask > 0) & (mask != BIG_ROCK)
    return float(image[ground].mean() if ground.any() else image.mean())


def cut_out(images: np.ndarray, masks: np.ndarray, label: int) -> list[Cutout]:
    """The connected objects of one class in tile order, without specks, slivers and what fills its tile.

    Args:
        images, masks: (N, H, W) uint8, the training fold only.
        label: the class, 1..4.
    """
    from scipy import ndimage

    kind = "rock" if label == BIG_ROCK else "ground"
    margin = round(3 * SOFTNESS[kind])
    size = masks.shape[1:]
    found = []
    for tile in np.flatnonzero((masks == label).any(axis=(1, 2))):
        components, _ = ndimage.label(masks[tile] == label)
        areas = np.bincount(components.ravel())
        light = ground_light(images[tile], masks[tile])
        for number, extent in enumerate(ndimage.find_objects(components), 1):
            if not SMALLEST[kind] <= areas[number] <= LARGEST * components.size:
                continue
            box = tuple(slice(max(s.start - margin, 0), min(s.stop + margin, side)) for s, side in zip(extent, size))
            shape, patch = components[box] == number, images[tile][box].copy()
            if ndimage.distance_transform_cdt(shape).max() < THINNEST * areas[number] ** 0.5:
                continue
            soft = ndimage.gaussian_filter(shape.astype(np.float32), SOFTNESS[kind], mode="nearest")
            found.append(
                Cutout(
                    tile=int(tile),
                    label=label,
                    top=box[0].start,
                    left=box[1].start,
                    shape=shape,
                    area=int(areas[number]),
                    patch=patch,
                    weight=np.round(256 * soft).astype(np.uint32),
                    light=light,
                )
            )
    return found


def choose_place(cutout: Cutout, size: tuple[int, ...], rng: np.random.Generator) -> tuple[int, int]:
    """A random (top, left) for the cutout's box within a tile of `size`.

    An object that an edge of its tile had cut off stays at that edge: its straight side would look wrong elsewhere.
    """
    height, width = cutout.shape.shape
    return _along(cutout.top, height, size[0], rng), _along(cutout.left, width, size[1], rng)


def _along(start: int, extent: int, side: int, rng: np.random.Generator) -> int:
    """A random start for `extent` pixels within `side`; what begins or ends at an edge stays there."""
    return start if start == 0 or start + extent == side else int(rng.integers(side - extent + 1))


def paste_anywhere(image: np.ndarray, mask: np.ndarray, cutout: Cutout, light: float, rng: np.random.Generator) -> None:
    """Pastes a cutout at a random place where most of it lies on labelled ground, or not at all if none is found."""
    height, width = cutout.shape.shape
    for _ in range(TRIES):
        top, left = choose_place(cutout, mask.shape, rng)
        if 2 * np.count_nonzero(mask[top : top + height, left : left + width][cutout.shape]) >= cutout.area:
            return paste(image, mask, cutout, top, left, light)


def paste(image: np.ndarray, mask: np.ndarray, cutout: Cutout, top: int, left: int, light: float) -> None:
    """Pastes a cutout on image and mask (H, W) uint8, in place, its brightness matched to a tile of that `light`."""
    height, width = cutout.shape.shape
    below = image[top : top + height, left : left + width]
    gain = min(max((light + 1) / (cutout.light + 1), GAIN[0]), GAIN[1])
    # Whole numbers: several times faster than float32 on boxes this small
    lit = np.minimum(cutout.patch * np.uint32(round(256 * gain)) >> 8, 255)
    below[...] = (lit * cutout.weight + below * (256 - cutout.weight) + 128) >> 8
    mask[top : top + height, left : left + width][cutout.shape] = cutout.label


def paste_rocks(
    image: np.ndarray, mask: np.ndarray, rocks: Sequence[Cutout], in_place: bool, rng: np.random.Generator
) -> None:
    """Copy-paste: 3 to 5 random rocks, fewer where they are large, on image and mask (H, W) uint8, in place.

    `in_place` pastes each rock where it was cut instead of anywhere.
    """
    wanted = rng.integers(PASTED_ROCKS[0], PASTED_ROCKS[1] + 1)
    chosen = [rocks[i] for i in rng.integers(len(rocks), size=wanted)]
    light = ground_light(image, mask)
    for rock in fitting(chosen, mask.size):
        if in_place:
            paste(image, mask, rock, rock.top, rock.left, light)
        else:
            paste_anywhere(image, mask, rock, light, rng)


def fitting(rocks: Sequence[Cutout], pixels: int) -> list[Cutout]:
    """The first rock, and of the others those that keep the covered share of a tile of `pixels` within ROCK_SHARE."""
    kept: list[Cutout] = []
    covered = 0
    for rock in rocks:
        if not kept or covered + rock.area <= ROCK_SHARE * pixels:
            kept.append(rock)
            covered += rock.area
    return kept


class Composer:
    """Compositional synthesis: cutouts of all classes on a tile, more of the rarer classes.

    Args:
        images, masks: (N, H, W) uint8, the training fold only.

    Raises:
        UserError: when no object of any class can be cut out.
    """

    def __init__(self, images: np.ndarray, masks: np.ndarray):
        objects = {label: cut_out(images, masks, label) for label in range(1, len(CLASSES))}
        self.objects = {label: found for label, found in objects.items() if found}
        if not self.objects:
            raise UserError("synthesis: the training fold shows no object to cut out; set synthesis=0")
        pixels = np.bincount(masks.ravel(), minlength=len(CLASSES))
        # The fourth root keeps the commoner classes in play: with big rock at 0.2 % of the pixels, about half of the
        # objects are rocks; in plain inverse frequency all of them would be
        odds = np.array([pixels[label] ** -0.25 for label in self.objects])
        self.odds = odds / odds.sum()

    def compose(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> None:
        """Pastes 4 to 8 objects on image and mask (H, W) uint8, in place: wide ground first, rocks on top."""
        wanted = rng.integers(COMPOSED_OBJECTS[0], COMPOSED_OBJECTS[1] + 1)
        labels = rng.choice(list(self.objects), size=wanted, p=self.odds)
        chosen = [self.objects[label][rng.integers(len(self.objects[label]))] for label in labels]
        light = ground_light(image, mask)
        ground = sorted((c for c in chosen if c.label != BIG_ROCK), key=lambda c: -c.area)
        for cutout in ground + fitting([c for c in chosen if c.label == BIG_ROCK], mask.size):
            paste_anywhere(image, mask, cutout, light, rng)
