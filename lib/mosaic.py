"""How the camera frames were put together again that a data file's tiles were cut from: in numbers and to look at.

python -m lib.mosaic FILE                          frames, seams, and how well they agree
python -m lib.mosaic FILE --out mosaic.npz         where each tile lies, for other programs
python -m lib.mosaic FILE --picture mosaic.png     the largest frames to look at
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lib import data, figures
from lib.console import ArgumentParser, Console, UserError, add_console_options, run_main
from lib.data import Dataset
from lib.frames import Mosaic, find_mosaic, paste
from lib.task import HEIGHT, WIDTH

FROM_EDGE = 3  # lines from the seam at which labels are compared: crowds leave thin borders unlabelled
SHOWN = 4  # frames in a picture


def summary(mosaic: Mosaic, dataset: Dataset, true: np.ndarray | None = None) -> dict[str, Any]:
    """What was found, in numbers ready for JSON.

    Args:
        mosaic: of `dataset`.
        dataset: with its test tiles.
        true: (N + M, 3) places as they are known of generated terrain.
    """
    labelled = len(dataset.images)
    frame_of = mosaic.places[:, 0]
    inside, clean = frame_of >= 0, np.flatnonzero(~dataset.outliers)
    helpful = np.zeros(frame_of.max(initial=-1) + 1, bool)  # frames with a labelled tile
    helpful[frame_of[:labelled][inside[:labelled]]] = True
    test = inside[labelled:]
    reached = test & helpful[frame_of[labelled:]] if len(helpful) else test
    sizes = np.bincount(frame_of[inside])
    loops, closed = _loops(mosaic)
    agree, chance = _agreement(mosaic, dataset)
    found = {
        "tiles": len(clean) + len(test),
        "frames": len(sizes),
        "rows_and_columns": mosaic.frame.tolist(),
        "largest_frame": int(sizes.max(initial=0)),
        "alone": len(clean) + len(test) - int(inside.sum()),
        "seams": len(mosaic.neighbours),
        "mean_confidence": _mean(mosaic.confidence),
        "loops": loops,
        "loops_whose_seams_all_fit": closed,
        "labels_agree_across_seams": agree,
        "labels_agree_by_chance": chance,
        "test_tiles_in_a_frame_with_labels": _mean(reached),
    }
    if true is not None:
        found |= precision_and_recall(mosaic.neighbours, true)
    return found


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _loops(mosaic: Mosaic) -> tuple[int, float | None]:
    """How many squares of four tiles there are, and the share of those whose four seams each fit by themselves."""
    fits = dict(zip(map(tuple, mosaic.neighbours.tolist()), mosaic.fits.tolist()))
    squares = []
    for tiles in mosaic.frames():
        at = {tuple(place): tile for place, tile in zip(mosaic.places[tiles, 1:].tolist(), tiles.tolist())}
        for (row, column), tile in at.items():
            corners = [at.get((row + down, column + right)) for down, right in ((0, 1), (1, 0), (1, 1))]
            if None not in corners:
                right, below, opposite = corners
                pairs = [(tile, right), (tile, below), (right, opposite), (below, opposite)]
                squares.append(all(fits.get(pair, False) for pair in pairs))
    return len(squares), _mean(np.array(squares))


def _agreement(mosaic: Mosaic, dataset: Dataset) -> tuple[float | None, float | None]:
    """The share of labelled pixels whose label goes on behind the seam, and the share by chance."""
    known = (mosaic.neighbours < len(dataset.images)).all(axis=1)
    before, behind = [], []
    for (first, second), across in zip(mosaic.neighbours[known], mosaic.across[known]):
        masks = [dataset.masks[tile].T if across else dataset.masks[tile] for tile in (first, second)]
        before.append(masks[0][-FROM_EDGE])
        behind.append(masks[1][FROM_EDGE - 1])
    if not before:
        return None, None
    one, other = np.concatenate(before), np.concatenate(behind)
    both = (one > 0) & (other > 0)
    shares = [np.bincount(labels[both], minlength=5) / max(1, both.sum()) for labels in (one, other)]
    return _mean(one[both] == other[both]), float(shares[0] @ shares[1])


def precision_and_recall(neighbours: np.ndarray, true: np.ndarray) -> dict[str, float | None]:
    """The share of neighbours (K, 2) that are true, and of the true ones that are among them; None of none.

    Args:
        true: (N + M, 3) places of all tiles; -1 for a tile of no frame.
    """
    frame, row, column = true.T
    at = {place: tile for tile, place in enumerate(zip(frame.tolist(), row.tolist(), column.tolist())) if place[0] >= 0}
    seams = {
        (tile, other)
        for (frame, row, column), tile in at.items()
        for place in ((frame, row, column + 1), (frame, row + 1, column))
        if (other := at.get(place)) is not None
    }
    found = set(map(tuple, neighbours.tolist()))
    right = len(found & seams)
    return {
        "precision": right / len(found) if found else None,
        "recall": right / len(seams) if seams else None,
    }


def report(found: dict[str, Any], source: str, console: Console) -> None:
    """The summary as text."""

    def percent(name: str) -> str:
        return "-" if found[name] is None else f"{found[name]:.2%}"

    if not found["seams"]:
        console.line(f"{source}: no mosaic found in {found['tiles']:,} tiles; neighbours change no prediction")
        return
    rows, columns = found["rows_and_columns"]
    size = f"at most {rows} x {columns} tiles" if rows else "of no size that all fit into"
    truth = {}
    if "precision" in found:
        truth["truth"] = f"precision {percent('precision')}, recall {percent('recall')} of the true seams"
    console.facts(
        data=f"{source}: {found['tiles']:,} tiles without outliers",
        frames=f"{found['frames']:,}, {size}, the largest of {found['largest_frame']}; {found['alone']:,} tiles alone",
        seams=f"{found['seams']:,}, mean confidence {percent('mean_confidence')}",
        loops=f"{found['loops']:,} squares of four tiles; in {percent('loops_whose_seams_all_fit')} all seams fit",
        labels=f"{percent('labels_agree_across_seams')} go on behind a seam; by chance "
        f"{percent('labels_agree_by_chance')} would",
        coverage=f"{percent('test_tiles_in_a_frame_with_labels')} of the test tiles lie in a frame with labels",
        **truth,
    )


def draw(path: Path, mosaic: Mosaic, dataset: Dataset) -> None:
    """Writes a PNG of the largest frames that have labels: tiles with their borders, and the masks that are known.

    Raises UserError where no tile has a neighbour.
    """
    labelled = len(dataset.images)
    frames = sorted(mosaic.frames(), key=lambda tiles: (-len(tiles), -(tiles < labelled).sum(), tiles[0]))
    if not frames:
        raise UserError("--picture: no two tiles were found to be neighbours, so there is no frame to draw")
    tiles = np.concatenate([dataset.images, dataset.test])
    masks = np.concatenate([dataset.masks, np.zeros((len(dataset.test), HEIGHT, WIDTH), np.uint8)])
    rows = []
    for frame in frames[:SHOWN]:
        grey, truth = (paste(pixels[frame], mosaic.places[frame, 1:]) for pixels in (tiles, masks))
        title = f"frame {mosaic.places[frame[0], 0]}: {len(frame)} tiles, {(frame < labelled).sum()} with labels"
        rows.append(((figures.brighten(grey), figures.colour_mask(truth)), title))
    figures.frames(path, rows, ["tiles", "labels"])


def main() -> None:
    """The command line."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("file", nargs="?", help="npz file; default: the competition's, else generated terrain")
    parser.add_argument("--out", type=Path, metavar="NPZ", help="write it: frame, row and column of each tile")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw the largest frames")
    add_console_options(parser)
    args = parser.parse_args()
    console = Console(args.quiet, args.json)
    dataset = data.load(args.file)
    mosaic = find_mosaic(dataset, console)
    found = summary(mosaic, dataset, data.read_places(args.file))
    report(found, dataset.source, console)
    if args.out:
        mosaic.write(args.out)
        console.line(f"\n{args.out}: written; places has frame, row and column of each tile, training tiles first")
    if args.picture:
        draw(args.picture, mosaic, dataset)
        console.line(f"\n{args.picture}: drawn")
    console.result(**found)


if __name__ == "__main__":
    run_main(main)
