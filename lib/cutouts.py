"""Objects cut out of labelled tiles, and their pasting on others (Ghiasi et al., Simple Copy-Paste, arXiv:2012.07177)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MARGIN = 3  # pixels around an object that its soft edge may touch
SOFTNESS = 0.8  # standard deviation of the edge's blur, in pixels
SMALLEST = 4  # smaller specks are label noise
GAIN = (0.6, 1.6)  # how far a paste may be darkened or lightened


@dataclass(frozen=True)
class Cutout:
    """One connected object with a small margin: box (h, w) within its source tile.

    Attributes:
        tile: index of the source tile.
        top, left: where the box lay in it.
        label: class of the object.
        shape: (h, w) bool, its pixels.
        patch: (h, w) uint8, the image of the box.
        weight: (h, w) uint16 0..256, how much of the patch covers what lies below: soft at the object's edge.
        brightness: mean grey level of the ground around it (of itself, where no ground is in the box).
    """

    tile: int
    top: int
    left: int
    label: int
    shape: np.ndarray
    patch: np.ndarray
    weight: np.ndarray
    brightness: float

    @property
    def area(self) -> int:
        """Pixels of the object."""
        return int(self.shape.sum())


def cut_out(images: np.ndarray, masks: np.ndarray, label: int) -> list[Cutout]:
    """All connected objects of one class, largest specks of noise excepted, in tile order.

    Args:
        images, masks: (N, H, W) uint8, the training fold only.
        label: the class, 1..4.
    """
    from scipy import ndimage

    height, width = masks.shape[1:]
    found = []
    for tile in np.flatnonzero((masks == label).any(axis=(1, 2))):
        components, _ = ndimage.label(masks[tile] == label)
        for number, (rows, columns) in enumerate(ndimage.find_objects(components), 1):
            box = (
                slice(max(rows.start - MARGIN, 0), min(rows.stop + MARGIN, height)),
                slice(max(columns.start - MARGIN, 0), min(columns.stop + MARGIN, width)),
            )
            shape = components[box] == number
            if shape.sum() < SMALLEST:
                continue
            patch = images[tile][box].copy()
            soft = ndimage.gaussian_filter(shape.astype(np.float32), SOFTNESS, mode="nearest")
            ground = patch[~shape] if not shape.all() else patch
            weight = np.round(256 * soft).astype(np.uint16)
            found.append(
                Cutout(int(tile), box[0].start, box[1].start, label, shape, patch, weight, float(ground.mean()))
            )
    return found


def choose_place(cutout: Cutout, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """A random (top, left) for the cutout's box within a tile of `size`.

    A cutout that was cut off by an edge of its tile stays at that edge: its straight side would look wrong elsewhere.
    """
    return tuple(
        start if start == 0 or start + extent == side else int(rng.integers(side - extent + 1))
        for start, extent, side in zip((cutout.top, cutout.left), cutout.shape.shape, size)
    )


def paste(image: np.ndarray, mask: np.ndarray, cutout: Cutout, top: int, left: int) -> None:
    """Pastes a cutout in place on image and mask (H, W) uint8, its brightness matched to the ground below."""
    height, width = cutout.shape.shape
    below = image[top : top + height, left : left + width]
    gain = np.clip((below.mean() + 1) / (cutout.brightness + 1), *GAIN)
    # Whole-number arithmetic: several times faster than float32 on patches this small
    lit = np.minimum(cutout.patch * np.uint32(round(256 * gain)) >> 8, 255)
    below[...] = (lit * cutout.weight + below * (256 - cutout.weight).astype(np.uint32) + 128) >> 8
    mask[top : top + height, left : left + width][cutout.shape] = cutout.label
