"""Frames dealt out in batches, each a job of its own, to processes of this machine or to Ray.

    found = deal_out(ensemble, [folder], out, None, 2, console)          # as lib.segment.segment_all, two at a time

Nodes share no disk: a batch takes its frames and what its runs' networks are made of along, and its masks come back. A
mask says what it was made from, so one that came from elsewhere passes for finished here.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from lib.children import gpus
from lib.cluster import Cluster
from lib.console import Console, UserError
from lib.jobs import Here, Runner, looking
from lib.pictures import BadPicture, check_picture
from lib.runs import CONFIG, METRICS, SPLIT, WEIGHTS
from lib.segment import Ensemble, finished, look_over, outputs
from lib.windows import grid

ROUNDS = 4  # batches for each worker: who is done first takes another
UNKNOWN = 256  # batches at most where nobody knows how many workers there are
LEAST = 16_000_000
"""Pixels, for each network and view, from which a second batch for a worker is worth the seconds in which networks are
built: a minute and a half of a core for `best --tiny`."""
PIXELS, FRAMES = 256_000_000, 256
"""Of a batch, at most: while it runs its frames lie in memory, and their names on a command line."""


@dataclass(frozen=True)
class Batch:
    """Some frames as a job: infer.py with their names. All paths lie below `runs`, and say so.

    `members`: run folders; `options`: of infer.py; `needs`: files of the runs, and the frames.
    """

    runs: Path
    members: tuple[Path, ...]
    options: tuple[str, ...]
    frames: tuple[Path, ...]
    out: Path
    needs: tuple[Path, ...]

    script: ClassVar[str] = "infer.py"
    data: ClassVar[str] = ""
    alone: ClassVar[None] = None

    @property
    def name(self) -> str:
        """Its first and its last frame."""
        return " to ".join(dict.fromkeys((self.frames[0].name, self.frames[-1].name)))

    def words(self, runs: Path | None = None, data: str | None = None) -> list[str]:
        """The arguments of infer.py; `runs`: where all lies elsewhere."""

        def there(paths: Iterable[Path]) -> list[str]:
            """The paths as they are below `runs`."""
            return [str((runs or self.runs) / path.relative_to(self.runs)) for path in paths]

        return [*there(self.members), *self.options, "--frames", *there(self.frames), "--out", *there([self.out])]

    def files(self, runs: Path) -> list[Path]:
        """The masks of its frames, and the pictures beside them."""
        out = runs / self.out.relative_to(self.runs)
        return [path for frame in self.frames for path in outputs(frame, out)]


def deal_out(
    ensemble: Ensemble, given: Sequence[Path], out: Path, ray: str | None, at_once: int | None, console: Console
) -> dict[str, list[Path]]:
    """As lib.segment.segment_all, with the frames that are not finished dealt out.

    Args:
        ensemble, given, out, console: see there.
        ray: the address of a cluster, "" for one on this machine; None: processes of this machine.
        at_once: batches at a time; None: one for each GPU, or with Ray where there is none for each core.
    """
    sizes, failed = look_over(ensemble, given, out, console)
    kept = [frame for frame in sizes if finished(frame, out, ensemble)]
    for frame in kept:
        console.line(f"{frame.name}  finished before")
    left = {frame: size for frame, size in sizes.items() if frame not in set(kept)}
    broken = _deal(ensemble, left, out, ray, at_once, console) if left else []
    made = [frame for frame in left if frame not in set(broken)]
    return {"made": made, "kept": kept, "failed": failed + broken}


def _deal(
    ensemble: Ensemble,
    sizes: Mapping[Path, tuple[int, int]],
    out: Path,
    ray: str | None,
    at_once: int | None,
    console: Console,
) -> list[Path]:
    """Has a runner segment frames of these heights and widths; those of them that cannot be read."""
    workers = at_once or len(gpus()) or os.cpu_count() or 1
    runner: Runner = Here(min(workers, len(sizes))) if ray is None else Cluster(ray, at_once)
    jobs = batches(ensemble, sizes, out, None if ray and not at_once else workers)
    arrivals = _Arrivals(sizes, out, console)
    failed = []
    try:
        with looking(arrivals.look):
            runner.run(jobs, console)
    except UserError:
        for frame in arrivals.awaited:
            try:
                check_picture(frame)
            except BadPicture as error:
                console.error(str(error))
                failed.append(frame)
            else:
                raise
    finally:
        arrivals.close()
    return failed


def batches(ensemble: Ensemble, sizes: Mapping[Path, tuple[int, int]], out: Path, workers: int | None) -> list[Batch]:
    """Frames of these heights and widths as jobs for so many workers; None: nobody knows how many."""
    pixels = {}
    for frame, size in sizes.items():
        down, across = grid(*size, ensemble.step)
        pixels[frame] = len(down) * len(across) * len(down[0].share) * len(across[0].share)
    members = [run.folder.resolve() for run in ensemble.runs]
    made_of = [
        folder / name
        for folder, run in zip(members, ensemble.runs)
        for name in dict.fromkeys((CONFIG, SPLIT, METRICS, WEIGHTS, *run.metrics().files))
    ]
    out = out.resolve()
    # A frame may be a link to a file of another name
    there = {frame: frame.parent.resolve() / frame.name for frame in sizes}
    common = Path(os.path.commonpath([*members, out, *{path.parent for path in there.values()}]))
    views = ["--tta"] if ensemble.views is None else ["--views", ",".join(ensemble.views)]
    background = "--allow-background" if ensemble.background else "--no-allow-background"
    options = (*views, background, "--jobs", "1")
    votes = sum(len(ensemble.views_of(run)) for run in ensemble.runs)
    return [
        Batch(common, tuple(members), options, frames, out, (*made_of, *frames))
        for frames in cut({there[frame]: count for frame, count in pixels.items()}, votes, workers)
    ]


def cut(pixels: Mapping[Path, int], votes: int, workers: int | None) -> list[tuple[Path, ...]]:
    """Frames in their order, in parts of about the same number of pixels; `votes`: networks times views.

    As many parts as workers, or some times so many where there is enough to do; where `workers` is None, as many as are
    worth it.
    """
    least, most = (workers, ROUNDS) if workers else (1, UNKNOWN)
    counts = np.array(list(pixels.values()))
    total = int(counts.sum())
    parts = least * min(max(total * votes // (least * LEAST), 1), most)
    parts = max(parts, -(-total // PIXELS))
    middles = (counts.cumsum() - counts / 2) / total
    groups = itertools.groupby(zip((middles * parts).astype(int), pixels), key=lambda pair: pair[0])
    whole = [[frame for _, frame in group] for _, group in groups]
    return [tuple(part[start : start + FRAMES]) for part in whole for start in range(0, len(part), FRAMES)]


class _Arrivals:
    """A line for each frame whose mask has come, and a bar on a terminal. `awaited`: frames whose masks have not."""

    def __init__(self, sizes: Mapping[Path, tuple[int, int]], out: Path, console: Console):
        self._sizes, self._console = sizes, console
        self._masks = {frame: outputs(frame, out)[0] for frame in sizes}
        self.awaited = {frame: _stamp(mask) for frame, mask in self._masks.items()}
        self._bar = console.progress(len(sizes), "frames", "frame")

    def look(self) -> None:
        """Shows what is new."""
        for frame, before in list(self.awaited.items()):
            if _stamp(self._masks[frame]) != before:
                del self.awaited[frame]
                height, width = self._sizes[frame]
                self._bar.clear()
                self._console.line(f"{frame.name}  {width}x{height}")
                self._bar.update()

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()


def _stamp(path: Path) -> int:
    """When a file was written, in ns; 0: it is not there."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
