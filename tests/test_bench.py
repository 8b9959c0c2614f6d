"""bench/: the harness counts and judges as it says, and a small run of `python -m bench` writes its table."""

import json
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import workloads
from conftest import ROOT

from bench import gpu, growth, harness, runtimes, score, step, views
from bench.harness import Comparison, Goal, Took, by_turns
from lib.console import Console, UserError
from lib.experiments import make_config
from lib.metrics import mean_iou


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal("", 2.0, least=2), True),
        (Goal("", 1.9, least=2), False),
        (Goal("", 2.0, most=2), True),
        (Goal("", 2.1, most=2), False),
        (Goal("", float("nan"), most=2), False),
        (Goal("", 7.0), True),
    ],
)
def test_a_goal_is_met_at_its_bound_and_not_beyond(goal, met):
    assert goal.met == met


def test_ways_take_turns_and_the_first_turn_does_not_count(monkeypatch):
    calls, clock, seconds = [], [0.0], iter([30.0, 1.0, 4.0, 2.0])
    times = SimpleNamespace(perf_counter=lambda: clock[0], process_time=lambda: clock[0] / 4)
    monkeypatch.setattr(harness, "time", times)

    def first():
        calls.append("first")
        clock[0] += next(seconds)

    took = by_turns({"first": first, "second": lambda: calls.append("second")}, rounds=3)
    assert calls == ["first", "second"] * 4
    assert took == {"first": Took(2.0, 0.5), "second": Took(0.0, 0.0)}


def test_cpu_seconds_are_those_of_work_and_memory_of_the_process():
    took = harness.apart({"busy": workloads.busy, "large": workloads.large}, 1)
    assert took["busy"].cpu > 0.9 * workloads.BUSY
    assert took["large"].megabytes > took["busy"].megabytes + 150


def test_a_runtime_that_fails_here_is_left_out_and_told_once(monkeypatch, capsys):
    asked = []

    def said(_, code, *arguments):
        way = next(name for name, its in runtimes.WAYS.items() if its in code)
        asked.append(way)
        if way == "XLA":
            raise UserError("python: Traceback\nNo XLA")
        return f"warning\n{4.0 if way == runtimes.OURS else 2.0} 1e-6 64\n"

    monkeypatch.setattr(runtimes, "said", said)
    found = runtimes.measure(1, 2, Console())
    assert [set(comparison.took) for comparison in found] == [set(runtimes.WAYS) - {"XLA"}] * len(runtimes.EXPERIMENTS)
    assert asked.count("XLA") == 1 and asked.count("onnxruntime") == 2 * len(runtimes.EXPERIMENTS)
    assert capsys.readouterr().out.count("XLA: left out: No XLA") == 1
    assert found[0].tiles == 64 and found[0].took["onnxruntime"].seconds == 2
    goals = {goal.text: goal for goal in found[0].goals}
    assert goals["onnxruntime: times as fast"].value == 2 and not goals["onnxruntime: times as fast"].met


def test_a_runtime_that_this_project_uses_is_not_left_out(monkeypatch):
    def said(*_):
        raise UserError("python: broken")

    monkeypatch.setattr(runtimes, "said", said)
    with pytest.raises(UserError, match="broken"):
        runtimes.measure(1, 1, Console(quiet=True))


def test_operations_are_two_for_each_weight_and_place():
    tiles = keras.Input((8, 16))
    convolved = keras.layers.Conv2D(6, 3, padding="same", use_bias=False)(tiles[..., None])
    model = keras.Model(tiles, convolved)
    assert step.operations(model) == pytest.approx(2 * 9 * 6 * 8 * 16, rel=0.02)


def test_a_score_is_reached_in_the_epoch_that_has_it():
    history = [dict(seconds=3.0, mean_iou=0.2), dict(seconds=2.0, mean_iou=0.5), dict(seconds=2.0, mean_iou=0.4)]
    assert score.reached(history, 0.5) == (5.0, 0.5)
    assert score.reached(history, 0.2) == (3.0, 0.2)
    assert score.reached(history, 0.6) == (7.0, 0.5)


def trained(fold, *epochs):
    """A finished run: seconds and mean IoU of each of its epochs."""
    history = [dict(seconds=seconds, mean_iou=mean_iou) for seconds, mean_iou in epochs]
    split = SimpleNamespace(digest="d", validation=np.arange(2) + 2 * fold)
    return SimpleNamespace(split=split, history=lambda: history)


def test_times_until_a_score_are_of_the_folds_that_all_systems_have():
    systems = {
        "new": [trained(0, (1.0, 0.5), (1.0, 0.7)), trained(1, (1.0, 0.3), (1.0, 0.4)), trained(2, (9.0, 0.9))],
        "old": [trained(1, (10.0, 0.6), (10.0, 0.5)), trained(0, (10.0, 0.4), (10.0, 0.5))],
    }
    found = score.compare(systems)
    assert {name: took.seconds for name, took in found.took.items()} == {"new": 1.0 + 2.0, "old": 10.0 + 20.0}
    assert [(goal.text, goal.value, goal.met) for goal in found.goals] == [
        ("new: folds that did not reach it", 1, False),
        ("new: of old's time", pytest.approx(0.1), True),
    ]
    with pytest.raises(UserError, match="no fold was trained by all"):
        score.compare({"new": systems["new"][:1], "old": systems["old"][:1]})


@pytest.fixture
def tried():
    """Two folds of two tiles, soil and sand; view 1 is right on the first fold only, 2 on the second, 3 nowhere."""
    truth = np.tile(np.array([1, 3], np.uint8), (4, 64, 64)).reshape(4, 64, 128)
    maps = np.zeros((4, 4, 64, 128, 5), np.float32)
    maps[..., 1] = 0.2  # all is soil
    np.put_along_axis(maps[1, :2], truth[:2, ..., None], 0.9, axis=-1)
    np.put_along_axis(maps[2, 2:], truth[2:, ..., None], 0.9, axis=-1)
    return views.Tried(maps, truth, False)


def test_the_view_that_adds_most_joins_first(tried):
    assert tried.order(np.array([0, 1]), 2) == [0, 1] and tried.order(np.array([2, 3]), 2) == [0, 2]


def test_no_fold_is_scored_by_views_that_its_own_tiles_chose(tried):
    found = tried.nested(np.array([0, 0, 1, 1]), 4)
    # Each fold is given the view that is right on the other one, and the view that is right on itself comes later
    soil_alone, right = 0.25, 1.0
    scores = [mean_iou(confusions.sum(axis=0)) for confusions in found]
    assert scores == pytest.approx([soil_alone, soil_alone, right, right])


def test_tables_say_what_was_missed():
    one = Comparison("x", {"a": Took(2.0, 1.0, 30.0), "b": Took(4.0)}, [Goal("r", 1.5, most=1), Goal("n", 0.25)], 10)
    assert harness.times(one) == [("x", "a", "2", "1", "30", "5"), ("x", "b", "4", "", "", "2")]
    assert harness.aims(one) == [("x", "r", "1.5", "1 or less", "no"), ("x", "n", "0.25", "", "")]


def test_a_small_run_writes_table_and_json(tmp_path):
    command = ("-m", "bench", "load", "encode", "--scale", "0.01", "--rounds", "1", "--out", tmp_path)
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    whats = ["load and clean", "write a submission", "check a submission", "score a submission"]
    assert [one["what"] for one in result["comparisons"]] == whats
    assert result["machine"]["cores"] and result["machine"]["load"] >= 0
    table = (tmp_path / "bench.md").read_text()
    assert all(what in table and what in done.stdout for what in whats)
    assert "| load and clean | np.load, astype |" in table


def test_an_unknown_stage_is_refused():
    done = subprocess.run([sys.executable, "-m", "bench", "lode"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "lode: no such stage" in done.stderr


def test_a_device_is_timed_and_what_does_not_fit_is_left_out(monkeypatch):
    config = make_config("best", tiny=True).replace(width=1, depth=1, batch_size=2)
    training, predicting, operations = gpu.measure(config, 1)
    assert min(training, predicting, operations) > 0
    monkeypatch.setattr(gpu, "_prepared", lambda config: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gpu.measure(config, 1)

    def full(config):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(gpu, "_prepared", full)
    assert gpu.measure(config, 1) is None


def test_growth_is_measured_on_as_many_test_tiles_as_it_says(tmp_path):
    growth.make(tmp_path / "tiles.npz", 250)
    with np.load(tmp_path / "tiles.npz") as made:
        assert made["test_set"].shape == (250, 64, 128) and made["test_set"].dtype == np.uint8
        assert made["training_set"].shape[1:] == (2, 64, 128) and len(made["training_set"]) == 100


def test_growth_draws_what_was_measured():
    tiles = {
        count: {step: Took(number + count / 100, None, 800.0 + number) for number, step in enumerate(growth.STEPS)}
        for count in (100, 1000)
    }
    figure = growth.draw(tiles, {8: (50.0, 200.0), 16: (30.0, 90.0)}, {1: 0.002, 2: 0.004})
    seconds, megabytes, width, views = ([line.get_ydata().tolist() for line in panel.lines] for panel in figure.axes)
    assert seconds == [[1.0, 10.0], [2.0, 11.0], [3.0, 12.0]]
    assert megabytes == [[800.0, 800.0], [801.0, 801.0], [802.0, 802.0]]
    assert width == [[50.0, 30.0], [200.0, 90.0]] and views == [[2.0, 4.0]]
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == list(growth.STEPS)
