"""Camera frames of any size to masks: a folder of pictures in, a folder of indexed PNGs and pictures to look at out.

    found = segment_all(ensemble, [folder], out, console)     # every frame that is not finished yet
    segment(path, out, ensemble)                              # one of them; in any process, again as often as one likes

`<name>_mask.png` has a pixel for each of the frame's, whose value is the class; `<name>_beside.png` shows both side by
side. A mask says what it was made from, and is made again only where that has changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lib import figures
from lib.config import Config
from lib.console import Console, UserError
from lib.files import replacing, sha256, writable
from lib.local import check_local, local, step
from lib.pictures import FORMATS, BadPicture, Picture, made_by, open_picture, size_of, write_mask
from lib.predict import labels, predict_probabilities, probability_model
from lib.runs import WEIGHTS, Run
from lib.windows import Member, grid, strips

FORMAT = 1
"""Raised whenever the same networks would say something else of a frame: older masks are then made again."""

SHOWN = 1024  # pixels of the longer side of a frame in the picture beside its mask, at most


@dataclass(frozen=True)
class Ensemble:
    """Runs whose probabilities are averaged; each one's are those of the classes that may be predicted.

    `views`: to average; None: each run's own (`views` in its config). `background`: whether class 0 may be predicted.
    """

    runs: Sequence[Run]
    views: tuple[str, ...] | None
    background: bool

    def check(self) -> None:
        """Raises UserError where a run's network cannot read frames, or its weights are missing."""
        for run in self.runs:
            check_local(run.config, run.folder)
            if not (run.folder / WEIGHTS).exists():
                raise UserError(f"{run.folder / WEIGHTS}: no weights yet; train the run first")

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """Hex SHA-256 of each run's weights."""
        return tuple(sha256(run.folder / WEIGHTS) for run in self.runs)

    @property
    def step(self) -> int:
        """What the sides of windows are multiples of."""
        return max(step(run.config) for run in self.runs)

    def views_of(self, run: Run) -> tuple[str, ...]:
        """What is averaged of one of the runs."""
        return run.config.views if self.views is None else self.views

    def made_by(self, frame: Path) -> str:
        """What a frame's mask depends on, as JSON."""
        members = [
            {"weights": digest, "config": run.config.differences(Config()), "views": self.views_of(run)}
            for run, digest in zip(self.runs, self.digests)
        ]
        return json.dumps({"format": FORMAT, "frame": sha256(frame), "background": self.background, "members": members})

    @cached_property
    def members(self) -> list[Member]:
        """The runs' networks, ready to be asked; folds of an experiment share one, and only the weights differ."""
        made: dict[Config, tuple] = {}

        def member(run: Run) -> Member:
            config = run.config.replace(seed=0, fold_seed=0)
            if config not in made:
                tiles = run.build_model()
                frames = local(tiles)
                made[config] = tiles, frames, probability_model(frames)
            tiles, frames, network = made[config]
            weights = run.weights(tiles)
            views = self.views_of(run)

            def predict(windows: np.ndarray) -> np.ndarray:
                return self._known(predict_probabilities(network, windows, views, run.folder, batch=len(windows)))

            def ready() -> Callable[[np.ndarray], np.ndarray]:
                frames.set_weights(weights)
                return predict

            return ready

        return [member(run) for run in self.runs]

    def _known(self, probabilities: np.ndarray) -> np.ndarray:
        """As lib.probabilities stores them: without a background that may not be predicted, the others sum to 1."""
        if self.background:
            return probabilities
        known = probabilities.copy()
        known[..., 0] = 0
        return known / np.maximum(known.sum(axis=-1, keepdims=True), np.finfo(np.float32).tiny)


def segment_all(ensemble: Ensemble, given: Sequence[Path], out: Path, console: Console) -> dict[str, list[Path]]:
    """Segments frames one after the other; what is finished already is left as it is.

    A frame that cannot be read gets a line on standard error, and the others go on.

    Args:
        ensemble: of finished runs.
        given: the frames, or the folder of them: see `find_frames`.
        out: the folder of masks; made where it is not there.
        console: shows the progress.

    Returns:
        The frames `made`, `kept` and `failed`.

    Raises:
        UserError: where the folders do not fit, there is no frame, two would have one mask, or a network fails.
    """
    sizes, failed = look_over(ensemble, given, out, console)
    found: dict[str, list[Path]] = {"made": [], "kept": [], "failed": failed}
    grids = {frame: grid(*size, ensemble.step) for frame, size in sizes.items()}
    windows = {frame: len(down) * len(across) * len(ensemble.runs) for frame, (down, across) in grids.items()}
    with console.progress(sum(windows.values()), "frames", "window") as bar:
        for number, (frame, count) in enumerate(windows.items(), start=1):
            start, before = time.perf_counter(), bar.n
            bar.set_postfix_str(f"{number}/{len(windows)} {frame.name}")
            try:
                picture = segment(frame, out, ensemble, bar.update)
            except BadPicture as error:
                bar.clear()
                console.error(str(error))
                found["failed"].append(frame)
            else:
                found["made" if picture else "kept"].append(frame)
                words = f"{picture}; {time.perf_counter() - start:.1f} s" if picture else "finished before"
                bar.clear()
                console.line(f"{frame.name}  {words}")
            bar.update(before + count - bar.n)
    return found


def look_over(
    ensemble: Ensemble, given: Sequence[Path], out: Path, console: Console
) -> tuple[dict[Path, tuple[int, int]], list[Path]]:
    """What can be known before hours of work: height and width of each frame, and the frames that have no header.

    The latter get their line. Arguments and what is raised: see `segment_all`.
    """
    ensemble.check()
    frames = find_frames(given, console)
    for folder in {frame.parent for frame in frames}:
        check_out(folder, out)
    sizes: dict[Path, tuple[int, int]] = {}
    failed = []
    for frame in frames:
        try:
            sizes[frame] = size_of(frame)
        except BadPicture as error:
            console.error(str(error))
            failed.append(frame)
    return sizes, failed


def finished(frame: Path, out: Path, ensemble: Ensemble) -> bool:
    """Whether a frame's mask and picture are there, made from the same frame, weights and views."""
    mask, beside = outputs(frame, out)
    note = made_by(mask) if beside.is_file() else None
    return note is not None and note == ensemble.made_by(frame)


def segment(frame: Path, out: Path, ensemble: Ensemble, told: Callable[[], object] = lambda: None) -> Picture | None:
    """Writes a frame's mask and the picture beside it, whole or not at all, unless they are there already.

    The mask comes last: where it is, both were finished. Any number of processes may work on one folder.

    Args:
        frame: a picture that `lib.pictures` reads.
        out: the folder to write to.
        ensemble: which may serve any number of frames.
        told: called after each window of each network.

    Returns:
        The picture, closed; None where what is there was made from the same frame, weights and views.

    Raises:
        BadPicture: where the frame cannot be read. UserError: where a network answers NaN. OSError.
    """
    if finished(frame, out, ensemble):
        return None
    mask, beside = outputs(frame, out)
    note = ensemble.made_by(frame)
    with open_picture(frame) as picture, replacing(mask, "wb") as stream:
        shown = _Shown(picture)
        write_mask(stream, _labels(picture, ensemble, shown, told), picture.height, picture.width, note)
        shown.write(beside, frame.name)
    return picture


def outputs(frame: Path, out: Path) -> tuple[Path, Path]:
    """The mask of a frame, and the picture that shows both."""
    return out / f"{frame.stem}_mask.png", out / f"{frame.stem}_beside.png"


def _labels(picture: Picture, ensemble: Ensemble, shown: _Shown, told: Callable) -> Iterator[np.ndarray]:
    """The frame's labels, (n, W) uint8 for n rows at a time; `shown` is told of them."""
    top = 0
    for probabilities in strips(picture, ensemble.members, ensemble.step, told=told):
        found = labels(probabilities, ensemble.background)
        shown.add(top, picture.rows(top, top + len(found)), found)
        top += len(found)
        yield found


class _Shown:
    """A frame and its mask in colours, shrunk to SHOWN pixels while they pass by in strips."""

    def __init__(self, picture: Picture):
        self.factor = -(-max(picture.height, picture.width) // SHOWN)
        # A side shorter than the factor is one pixel of fewer
        height, width = (max(side // self.factor, 1) for side in (picture.height, picture.width))
        self._sums = np.zeros((height, width, 4))
        self._rows = np.zeros(height)

    def add(self, top: int, grey: np.ndarray, mask: np.ndarray) -> None:
        """Takes in a strip of rows from `top` on: grey levels and labels (n, W) uint8."""
        height, width = self._sums.shape[:2]
        both = np.concatenate([grey[..., None], figures.colour_mask(mask)], axis=-1)
        columns = both[:, : width * self.factor].reshape(len(both), width, -1, 4).mean(axis=2)
        rows = (top + np.arange(len(both))) // self.factor
        inside = rows < height
        np.add.at(self._sums, rows[inside], columns[inside])
        np.add.at(self._rows, rows[inside], 1)

    def write(self, path: Path, name: str) -> None:
        """Writes the picture."""
        means = np.rint(self._sums / self._rows[:, None, None]).astype(np.uint8)
        smaller = f", 1 : {self.factor}" if self.factor > 1 else ""
        figures.beside(path, figures.brighten(means[..., 0]), means[..., 1:], f"{name}{smaller}")


def find_frames(given: Sequence[Path], console: Console) -> list[Path]:
    """The frames named, or those in the one folder that is named, by name.

    In a folder they are the files whose names end as one of lib.pictures.FORMATS; others, hidden ones and folders are
    left alone. Raises UserError where there is none, a name is of no frame, or two would have one mask.
    """
    frames = _in_folder(given[0], console) if len(given) == 1 and given[0].is_dir() else list(dict.fromkeys(given))
    for frame in frames:
        if not frame.is_file():
            what = "is no file" if frame.exists() else "no such file or folder"
            raise UserError(f"{frame}: {what}; name one folder with frames, or files, and runs before --frames")
        if frame.suffix.lower() not in FORMATS:
            raise UserError(f"{frame}: is no frame by its name; they end in {', '.join(FORMATS)}")
    seen: dict[str, Path] = {}
    for frame in frames:
        other = seen.setdefault(frame.stem.casefold(), frame)  # some disks do not tell A from a
        if other != frame:
            raise UserError(f"{other} and {frame}: both would become {outputs(frame, Path())[0]}; rename one of them")
    return frames


def _in_folder(folder: Path, console: Console) -> list[Path]:
    files = sorted(folder.iterdir())
    frames = [path for path in files if path.suffix.lower() in FORMATS and path.name[0] != "." and path.is_file()]
    if not frames:
        raise UserError(f"{folder}: no frame in it; they end in {', '.join(FORMATS)}")
    if len(frames) < len(files):
        console.line(f"{folder}: {len(files) - len(frames)} other files and folders in it are left alone")
    return frames


def check_out(folder: Path, out: Path) -> None:
    """Makes the folder for masks. Raises UserError where that cannot be, or it lies among the frames; OSError."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is no folder; name one for the masks with --out")
    if out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{out}: lies in the folder of frames, where masks would be taken for some; name another --out")
    out.mkdir(parents=True, exist_ok=True)
    if not writable(out):
        raise UserError(f"{out}: cannot be written to; name another folder with --out")
