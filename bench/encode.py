"""How long the submission file takes to be written, checked and scored, beside pandas.

    python -m bench.encode [--scale 1] [--rounds 3]

The limit is to bring that many bytes to the disk, or back from it, with nothing to encode. Writers run in processes of
their own. All must write the same file. pandas, whose time grows with the tiles, gets a tenth of them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas

from bench.harness import Comparison, Goal, Took, apart, run
from lib import npz
from lib.console import Console, UserError, run_main
from lib.encoding import check, csv_size, score, write
from lib.files import replacing, sha256
from lib.metrics import confusion_matrix
from lib.task import HEIGHT, TEST_TILES, WIDTH

SHARE = 10  # of pandas: one tile in so many


def make_masks(tiles: int) -> np.ndarray:
    """Random patches of labels 1..4, (tiles, 64, 128) uint8."""
    patches = np.random.default_rng(0).integers(1, 5, (tiles, HEIGHT // 8, WIDTH // 8), dtype=np.uint8)
    return patches.repeat(8, axis=1).repeat(8, axis=2)


def write_bytes(folder: Path, tiles: int) -> None:
    """The limit: as many bytes, already encoded."""
    block = bytes(1 << 21)
    with replacing(folder / "bytes.csv", "wb") as stream:
        for start in range(0, csv_size(tiles), len(block)):
            stream.write(block[: csv_size(tiles) - start])


def write_ours(folder: Path, tiles: int) -> None:
    """lib.encoding.write, which also waits until the disk has it all."""
    write(folder / "ours.csv", [_masks(folder, tiles)])


def write_pandas(folder: Path, tiles: int) -> None:
    """The organisers' code."""
    masks = _masks(folder, tiles)
    frame = pandas.DataFrame(masks.reshape(len(masks), -1))
    frame.insert(0, "id", np.arange(len(masks)))
    frame.to_csv(folder / "pandas.csv", index=False)


def read_bytes(folder: Path, tiles: int) -> None:
    """The limit of reading."""
    with open(folder / "ours.csv", "rb") as stream:
        while stream.read(1 << 21):
            pass


def check_ours(folder: Path, tiles: int) -> None:
    """Every byte."""
    check(folder / "ours.csv", tiles)


def score_ours(folder: Path, tiles: int) -> None:
    """And the confusion matrix."""
    score(folder / "ours.csv", folder / "masks.npz")


def check_pandas(folder: Path, tiles: int) -> None:
    """As a careful competitor would."""
    _read_pandas(folder, tiles)


def score_pandas(folder: Path, tiles: int) -> None:
    """And the confusion matrix, which is the project's own."""
    confusion_matrix(_masks(folder, tiles), _read_pandas(folder, tiles))


def _read_pandas(folder: Path, tiles: int) -> np.ndarray:
    frame = pandas.read_csv(folder / "pandas.csv")
    masks = frame.drop(columns="id").to_numpy()
    if not np.array_equal(frame["id"], np.arange(tiles)) or not ((masks >= 1) & (masks <= 4)).all():
        raise UserError("pandas reads another file than it wrote")
    return masks.reshape(tiles, HEIGHT, WIDTH).astype(np.uint8)


def _masks(folder: Path, tiles: int) -> np.ndarray:
    return npz.load(folder / "masks.npz", ["test_masks"])["test_masks"][:tiles]


STAGES = {
    "write": (write_ours, write_pandas, write_bytes),
    "check": (check_ours, check_pandas, read_bytes),
    "score": (score_ours, score_pandas, read_bytes),
}


def measure(scale: float, rounds: int, console: Console) -> list[Comparison]:
    """Writing, checking, scoring."""
    tiles = round(TEST_TILES * scale)
    few = -(-tiles // SHARE)
    comparisons = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "masks.npz", test_masks=make_masks(tiles))
        write_ours(folder, few)
        fewer = sha256(folder / "ours.csv")
        for stage, (ours, pandas_way, limit) in STAGES.items():
            some = apart({"this project": ours, "limit: bytes alone": limit}, rounds, folder, tiles)
            [took] = apart({"pandas": pandas_way}, rounds, folder, few).values()
            if stage == "write" and sha256(folder / "pandas.csv") != fewer:
                raise UserError("pandas writes another file; run the tests of lib/encoding.py")
            times = tiles / few
            some["pandas"] = Took(took.seconds * times, took.cpu * times, took.megabytes)
            mine, floor = some["this project"], some["limit: bytes alone"]
            goals = [
                Goal("pandas: times the CPU", some["pandas"].cpu / mine.cpu, least=40),
                Goal("times the limit", mine.seconds / floor.seconds, most=2.5),
            ]
            comparisons.append(Comparison(f"{stage} a submission", some, goals, tiles))
    return comparisons


if __name__ == "__main__":
    run_main(lambda: run(measure, __doc__, "bench.encode"))
