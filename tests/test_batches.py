"""Frames dealt out: what travels with a batch, how batches are cut, and the same masks whoever makes them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from systems import give_networks, make_system, write_tiles

import infer
from lib import batches, children, jobs, segment
from lib.batches import Batch, cut, deal_out
from lib.console import Console, UserError, run_main
from lib.jobs import raise_failures
from lib.predict import PLAIN
from lib.runs import CONFIG, METRICS, SPLIT, STATE, WEIGHTS, find_runs, write_text
from lib.segment import Ensemble, finished

ROOT = Path(__file__).resolve().parent.parent
SMALL = dict(architecture="compact", width=8, depth=2, attention="none", views=("identity", "vflip"))
FRAMES = ["a.png", "b.png", "c.png", "d.png"]


@pytest.fixture
def home(tmp_path):
    """runs/pair, two runs of pretended networks; frames/, four frames as large as a tile."""
    make_system(tmp_path / "runs" / "pair", write_tiles(tmp_path / "data.npz"), folds=(0, 1), **SMALL)
    (tmp_path / "frames").mkdir()
    for seed, name in enumerate(FRAMES):
        grey = np.random.default_rng(seed).integers(0, 256, (4, 8)).repeat(16, axis=0).repeat(16, axis=1)
        Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "frames" / name)
    return tmp_path


@pytest.fixture
def pretended(monkeypatch):
    """From now on the one network tells the class by the grey level, 1 to 4."""

    def predict(windows):
        return np.eye(5, dtype=np.float32)[windows // 64 + 1]

    monkeypatch.setattr(Ensemble, "members", property(lambda self: [lambda: predict] * len(self.runs)))


def ensemble(home, views=PLAIN, background=False) -> Ensemble:
    return Ensemble(find_runs(["pair"], home / "runs"), views, background)


def frames_of(home) -> dict[Path, tuple[int, int]]:
    return {home / "frames" / name: (64, 128) for name in FRAMES}


def test_a_batch_takes_along_what_its_networks_and_frames_are_and_brings_its_masks_back(home):
    folds = [home / "runs" / "pair" / f"fold_{fold}" for fold in (0, 1)]
    write_text(folds[0] / STATE, "large")
    first, second = batches.batches(ensemble(home, views=None), frames_of(home), home / "out", 2)
    assert first.script == "infer.py" and first.data == "" and first.alone is None
    assert first.runs == home and first.name == "a.png to b.png"
    runs = [folder / name for folder in folds for name in (CONFIG, SPLIT, METRICS, WEIGHTS)]
    assert second.needs == (*runs, home / "frames" / "c.png", home / "frames" / "d.png")
    assert second.words(Path("/r")) == [
        "/r/runs/pair/fold_0", "/r/runs/pair/fold_1", "--tta", "--no-allow-background", "--jobs", "1",
        "--frames", "/r/frames/c.png", "/r/frames/d.png", "--out", "/r/out",
    ]  # fmt: skip
    assert second.words() == [word.replace("/r/", f"{home}/") for word in second.words(Path("/r"))]
    names = ["c_mask.png", "c_beside.png", "d_mask.png", "d_beside.png"]
    assert second.files(Path("/r")) == [Path("/r/out") / name for name in names]
    (one,) = batches.batches(ensemble(home, ("hflip", "shift(0,8)"), True), frames_of(home), home / "out", 1)
    assert one.words()[2:5] == ["--views", "hflip,shift(0,8)", "--allow-background"]


def test_frames_that_are_links_keep_their_names(home, monkeypatch):
    (home / "link").symlink_to(home / "frames")
    (home / "frames" / "other.png").symlink_to("a.png")
    monkeypatch.chdir(home)
    (batch,) = batches.batches(ensemble(home), {Path("link", "other.png"): (64, 128)}, Path("out"), 1)
    assert batch.frames == (home / "frames" / "other.png",) and batch.out == home / "out"


def sizes(*megapixels: float) -> dict[Path, int]:
    return {Path(str(number)): int(1e6 * size) for number, size in enumerate(megapixels)}


@pytest.mark.parametrize(
    ("megapixels", "votes", "workers", "wanted"),
    [
        ([1] * 6, 1, 2, [3, 3]),
        ([1] * 6, 1, 4, [1, 2, 1, 2]),
        ([1], 1, 4, [1]),
        ([5, 1, 1, 1, 1, 1], 1, 2, [1, 5]),
        ([8] * 8, 1, 2, [2, 2, 2, 2]),  # two for each, as there is work for that
        ([8] * 8, 10, 2, [1] * 8),
        ([8] * 64, 10, 2, [8] * 8),  # no more than four for each
        ([8] * 8, 1, None, [2, 2, 2, 2]),
        ([1] * 8, 1, None, [8]),
        ([128] * 16, 1, 1, [2] * 8),  # what lies in memory
        ([0.001] * 600, 1, 1, [256, 256, 88]),  # what stands on a command line
    ],
)
def test_batches_are_about_equal_and_worth_building_networks_for(megapixels, votes, workers, wanted):
    found = cut(sizes(*megapixels), votes, workers)
    assert [len(part) for part in found] == wanted
    assert [frame for part in found for frame in part] == list(sizes(*megapixels))


def called(monkeypatch, *words) -> int:
    """The exit code of infer.py."""
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["infer.py", *map(str, words)])
        run_main(infer.main)
    return ended.value.code


@pytest.fixture
def runner(pretended, monkeypatch):
    """In place of lib.jobs.Here: runs jobs in this process; a list of them."""

    class InTurn:
        dealt: list[Batch] = []
        error = None

        def __init__(self, at_once):
            self.at_once = at_once

        def run(self, some, console):
            codes = []
            for job in some:
                self.dealt.append(job)
                codes.append(called(monkeypatch, *job.words(), "--quiet"))
            raise_failures([self.error or "a job failed" if code else None for code in codes])

    monkeypatch.setattr(batches, "Here", InTurn)
    return InTurn


def options(home):
    return [home / "runs" / "pair", "--frames", home / "frames", "--out", home / "out"]


def test_finished_frames_are_not_dealt_out_and_broken_ones_get_their_line(home, runner, monkeypatch, capsys):
    assert called(monkeypatch, *options(home)[:-3], home / "frames" / "b.png", *options(home)[-2:]) == 0
    capsys.readouterr()
    (home / "frames" / "a.png").write_bytes(b"no picture")
    whole = (home / "frames" / "c.png").read_bytes()
    (home / "frames" / "c.png").write_bytes(whole[: len(whole) - 40])  # its header is whole
    monkeypatch.setattr(jobs, "LOOK", 3600)
    assert called(monkeypatch, *options(home), "--jobs", "2") == 2
    assert [[frame.name for frame in job.frames] for job in runner.dealt] == [["c.png"], ["d.png"]]
    out, error = capsys.readouterr()
    assert "b.png  finished before\nd.png  128x64\n" in out and "1 made, 1 kept, 2 failed" in out
    lines = [line.partition(": not a whole PNG picture")[0] for line in error.splitlines()]
    # The batch's own, which a child would have kept to itself, comes first of c's
    assert lines == [f"error: {home / 'frames' / name}" for name in ("a.png", "c.png", "c.png")]
    assert finished(home / "frames" / "d.png", home / "out", ensemble(home))


def test_a_batch_that_fails_though_its_frames_are_whole_ends_it_after_the_others(home, runner, monkeypatch, capsys):
    runner.error = "out of memory"

    def fail(frame, *arguments, real=segment.segment):
        if frame.name == "b.png":
            raise UserError("out of memory")
        return real(frame, *arguments)

    monkeypatch.setattr(segment, "segment", fail)
    with pytest.raises(UserError, match="^out of memory$"):
        deal_out(ensemble(home), [home / "frames"], home / "out", None, 4, Console(quiet=True))
    assert sorted(path.name for path in (home / "out").glob("*_mask.png")) == ["a_mask.png", "c_mask.png", "d_mask.png"]


def test_what_was_made_elsewhere_is_finished_here(home, runner, monkeypatch):
    (job,) = batches.batches(ensemble(home), frames_of(home), home / "out", 1)
    there = home / "there"
    for path in job.needs:
        (there / path.relative_to(home)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there / path.relative_to(home))
    assert called(monkeypatch, *job.words(there), "--quiet") == 0
    (home / "out").mkdir()
    for path in job.files(there):
        shutil.copy(path, home / "out")
    found = deal_out(ensemble(home), [home / "frames"], home / "out", None, 2, Console(quiet=True))
    assert [frame.name for frame in found["kept"]] == FRAMES and not runner.dealt
    other = deal_out(ensemble(home, views=None), [home / "frames"], home / "out", None, 2, Console(quiet=True))
    assert [frame.name for frame in other["made"]] == FRAMES


def test_ctrl_c_says_that_nothing_is_lost(home, runner, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupt)
    assert called(monkeypatch, *options(home), "--jobs", "2") == 130
    assert "finished masks stay; the same command goes on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "cards", "wanted"),
    [
        ("--jobs 3", 0, ("here", 3)),
        ("--jobs 9", 0, ("here", 4)),  # no more than frames
        ("", 2, ("here", 2)),
        ("--jobs 1", 2, None),
        ("", 0, None),
        ("--ray", 0, ("", None)),
        ("--ray there:1 --jobs 2", 0, ("there:1", 2)),
    ],
)
def test_who_deals_out(words, cards, wanted, home, pretended, monkeypatch):
    asked = []

    class Pretended:
        def run(self, *_):
            raise UserError("enough")

    for module in (infer, batches):
        monkeypatch.setattr(module, "gpus", lambda: ["0"] * cards)
    monkeypatch.setattr(batches, "Here", lambda at_once: asked.append(("here", at_once)) or Pretended())
    monkeypatch.setattr(batches, "Cluster", lambda *address: asked.append(address) or Pretended())
    assert called(monkeypatch, *options(home), *words.split()) == (2 if wanted else 0)
    assert asked == ([wanted] if wanted else [])


def test_two_at_a_time_make_the_masks_that_one_process_does(home):
    """Byte for byte, with as many threads."""
    give_networks(home / "runs" / "pair")
    environment = os.environ | dict.fromkeys(children.THREADS, str(max(1, (os.cpu_count() or 1) // 2)))
    for name, at_once in (("one", "1"), ("two", "2")):
        command = [sys.executable, "infer.py", *options(home)[:-1], home / name, "--tta", "--jobs", at_once]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
        assert "4 made" in told.stdout and all(f"\n{frame}  128x64" in told.stdout for frame in FRAMES)
    made = sorted(path.name for path in (home / "one").iterdir())
    assert len(made) == 8
    for name in made:
        assert (home / "two" / name).read_bytes() == (home / "one" / name).read_bytes(), name
