"""One fold: resume weight for weight, killed or not; schedule, stopping and run folders."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lib import runs
from lib.console import Console, UserError
from lib.data import Dataset
from lib.experiments import make_config
from lib.runs import Split

QUIET = Console(quiet=True)
FALLING = dict(plateau_patience=1, learning_rate=0.3)  # so high that scores get worse and the schedule acts
HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def tiny_data(count=24, seed=0) -> Dataset:
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 4, (count, 8, 16)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    masks[::4, 8:16, 16:32] = 4
    images = (masks * 40 + rng.integers(0, 60, masks.shape)).astype(np.uint8)
    return Dataset("tiny", images, masks, np.zeros(count, bool), images[:0], None, f"digest {seed}")


def tiny_config(**changes):
    # One U-Net compiles in seconds; dropout has a random state of its own to resume
    return make_config("seventh", tiny=True).replace(
        **{**dict(width=2, nesting=1, depth=2, batch_size=8, epochs=4, dropout=0.3, folds=3), **changes}
    )


def train(folder, config, resume=False, fold=0, data=None, extra=()):
    from lib.training import train_fold

    data = data or tiny_data()
    run = runs.prepare(folder, config, Split.of(data, config, fold), resume)
    return train_fold(run, data, QUIET, extra)


def state_of(folder):
    with np.load(folder / runs.STATE) as arrays:
        state = json.loads(str(arrays["state"]))
        for row in state["history"]:
            del row["seconds"], row["tiles_per_second"]
        return state, {key: arrays[key] for key in arrays if key != "state"}


def assert_same_run(one, other):
    import h5py

    state, variables = state_of(one)
    other_state, other_variables = state_of(other)
    assert json.dumps(state) == json.dumps(other_state)
    assert variables.keys() == other_variables.keys()
    for key, value in variables.items():
        np.testing.assert_array_equal(value, other_variables[key], err_msg=key)
    with h5py.File(one / runs.WEIGHTS) as left, h5py.File(other / runs.WEIGHTS) as right:
        names = []
        left.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        assert names
        for name in names:
            np.testing.assert_array_equal(left[name][()], right[name][()], err_msg=name)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Four epochs without a break; the learning rate falls and patience runs on the way."""
    folder = tmp_path_factory.mktemp("straight") / "fold_0"
    train(folder, tiny_config(**FALLING))
    return folder


def test_two_and_two_epochs_equal_four(straight, tmp_path):
    folder = tmp_path / "fold_0"
    train(folder, tiny_config(**FALLING, epochs=2))
    train(folder, tiny_config(**FALLING), resume=True)
    assert_same_run(straight, folder)


def test_resume_after_ctrl_c_in_the_middle_of_an_epoch(straight, tmp_path):
    import keras

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.epoch == 2 and batch == 1:
                raise KeyboardInterrupt

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    folder = tmp_path / "fold_0"
    with pytest.raises(KeyboardInterrupt):
        train(folder, tiny_config(**FALLING), extra=(Interrupt(),))
    assert not (folder / runs.METRICS).exists()
    train(folder, tiny_config(**FALLING), resume=True)
    assert_same_run(straight, folder)


def test_resume_after_kill_9(straight, tmp_path):
    """The process is killed from outside as soon as the second epoch's state lies on disk."""
    folder = tmp_path / "fold_0"
    script = textwrap.dedent(f"""
        import sys; sys.path[:0] = [{HERE!r}, {os.path.join(HERE, "tests")!r}]
        from pathlib import Path
        from test_training import FALLING, tiny_config, train
        train(Path({str(folder)!r}), tiny_config(**FALLING, epochs=4))
    """)
    child = subprocess.Popen([sys.executable, "-c", script], cwd=HERE)
    deadline = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline:
        if (folder / runs.HISTORY).exists() and (folder / runs.HISTORY).read_text().count("\n") >= 2:
            child.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    child.wait()
    assert child.returncode == -signal.SIGKILL
    train(folder, tiny_config(**FALLING), resume=True)
    assert_same_run(straight, folder)


def test_the_learning_rate_falls_on_a_plateau(straight):
    rates = [row["learning_rate"] for row in runs.Run.open(straight).history()]
    assert rates[0] == pytest.approx(0.3)
    assert rates[-1] < rates[0]


def test_best_weights_are_those_of_the_best_epoch(straight):
    metrics = runs.Run.open(straight).metrics()
    scores = [row["mean_iou"] for row in runs.Run.open(straight).history()]
    assert metrics.best_epoch == int(np.argmax(scores)) + 1
    assert metrics.mean_iou == pytest.approx(max(scores), abs=1e-9)
    assert np.sum(metrics.confusion) == (tiny_data().masks[runs.Run.open(straight).split.validation] > 0).sum()


def test_run_folder_is_complete(straight):
    assert {path.name for path in straight.iterdir()} == {
        "config.json", "split.json", "best.weights.h5", "state.npz", "history.csv", "metrics.json", "environment.json"
    }  # fmt: skip
    metrics = runs.Run.open(straight).metrics()
    assert metrics.parameters > 1000 and None not in (metrics.untrained_mean_iou, metrics.constant_mean_iou)


def test_early_stopping_ends_training_and_stays_ended(tmp_path):
    folder = tmp_path / "fold_0"
    metrics = train(folder, tiny_config(patience=1, epochs=30, learning_rate=0.0))
    assert metrics.epochs == 2
    again = train(folder, tiny_config(patience=1, epochs=40, learning_rate=0.0), resume=True)
    assert again.epochs == 2


def test_without_validation_every_tile_trains_and_the_last_weights_stay(tmp_path):
    folder = tmp_path / "fold_none"
    metrics = train(folder, tiny_config(epochs=2), fold=None)
    run = runs.Run.open(folder)
    assert len(run.split.train) == 24 and not len(run.split.validation)
    assert metrics.mean_iou is None and metrics.best_epoch == 2
    assert (folder / runs.WEIGHTS).exists()


def test_another_configuration_never_overwrites(straight):
    before = (straight / runs.CONFIG).read_bytes()
    with pytest.raises(UserError, match="width=2 .asked: 3."):
        train(straight, tiny_config(**FALLING, width=3), resume=True)
    assert (straight / runs.CONFIG).read_bytes() == before


def test_other_data_never_overwrites(straight):
    with pytest.raises(UserError, match="other data"):
        train(straight, tiny_config(**FALLING), resume=True, data=tiny_data(seed=1))


def test_a_run_without_an_epoch_is_begun_afresh(tmp_path):
    split = Split.of(tiny_data(), tiny_config(), 0)
    runs.prepare(tmp_path / "fold_0", tiny_config(width=3), split, resume=False).begin()
    run = runs.prepare(tmp_path / "fold_0", tiny_config(), split, resume=False)
    run.begin()
    assert runs.Run.open(tmp_path / "fold_0").config == run.config == tiny_config()


def test_what_a_killed_training_left_half_written_goes(tmp_path):
    left = tmp_path / "fold_0" / "state.npz.0.partial"
    left.mkdir(parents=True)
    runs.prepare(tmp_path / "fold_0", tiny_config(), Split.of(tiny_data(), tiny_config(), 0), resume=True).begin()
    assert {path.name for path in (tmp_path / "fold_0").iterdir()} == {runs.CONFIG, runs.SPLIT}


@pytest.mark.parametrize("written", [runs.WEIGHTS, runs.STATE])
def test_an_unfinished_run_wants_resume(tmp_path, written):
    split = Split.of(tiny_data(), tiny_config(), 0)
    runs.prepare(tmp_path / "fold_0", tiny_config(), split, resume=False).begin()
    (tmp_path / "fold_0" / written).touch()
    with pytest.raises(UserError, match="--resume"):
        runs.prepare(tmp_path / "fold_0", tiny_config(), split, resume=False)


def test_a_run_can_be_ended_with_the_epochs_that_it_has(straight, tmp_path):
    folder = tmp_path / "fold_0"
    shutil.copytree(straight, folder)
    (folder / runs.METRICS).unlink()
    metrics = train(folder, tiny_config(**FALLING, epochs=3), resume=True)
    assert metrics.epochs == 4 and metrics.mean_iou == runs.Run.open(straight).metrics().mean_iou


def test_a_damaged_checkpoint_is_named(tmp_path):
    folder = tmp_path / "fold_0"
    train(folder, tiny_config(epochs=1))
    (folder / runs.STATE).write_bytes((folder / runs.STATE).read_bytes()[:1000])
    with pytest.raises(UserError, match="state.npz"):
        train(folder, tiny_config(epochs=2), resume=True)


@pytest.fixture
def copied(straight, tmp_path):
    return Path(shutil.copytree(straight, tmp_path / "copied" / "fold_0"))


@pytest.mark.parametrize("name", [runs.CONFIG, runs.SPLIT, runs.HISTORY])
def test_a_file_that_is_not_what_training_left(copied, name):
    run = runs.Run.open(copied)
    assert set(run.metrics().files) == {runs.CONFIG, runs.SPLIT, runs.HISTORY, runs.WEIGHTS}
    (copied / name).write_bytes((copied / name).read_bytes() + b"\n")
    with pytest.raises(UserError, match=f"{name}: is not what training left there"):
        runs.Run.open(copied).metrics()
    (copied / name).unlink()
    with pytest.raises(UserError, match=f"{name}: is not what training left there"):
        run.metrics()


def test_weights_that_are_not_what_training_left(copied):
    from lib import weights

    run = runs.Run.open(copied)
    model = run.build_model()
    run.weights(model)
    weights.save(copied / runs.WEIGHTS, run.build_model())
    with pytest.raises(UserError, match="best.weights.h5: is not what training left there"):
        run.weights(model)
    with pytest.raises(UserError, match="best.weights.h5: is not what training left there"):
        runs.prepare(copied, run.config.replace(epochs=9), run.split, resume=True)
    assert run.finished
    forget(copied, runs.WEIGHTS)  # as an older version left it
    assert runs.prepare(copied, run.config.replace(epochs=9), run.split, resume=True).prolonged
    run.weights(model)


def test_weights_that_do_not_fit_the_config(copied):
    forget(copied, runs.CONFIG)
    (copied / runs.CONFIG).write_text(tiny_config(width=3).to_json())
    run = runs.Run.open(copied)
    with pytest.raises(UserError, match="does not fit"):
        run.weights(run.build_model())


def forget(folder, name):
    """Has metrics.json not know what a file was."""
    metrics = json.loads((folder / runs.METRICS).read_text())
    del metrics["files"][name], metrics["digest"]
    (folder / runs.METRICS).write_text(json.dumps(metrics))


def spoil(epoch, *numbers):
    """A callback that puts NaN into weights, by number, as an epoch (from 0) begins."""
    import keras

    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, now, logs=None):
            for number in numbers if now == epoch else ():
                self.model.weights[number].assign(self.model.weights[number] * np.nan)

    return Spoil()


def test_a_training_that_stops_being_finite_keeps_what_was_good(tmp_path):
    from lib.callbacks import Diverged

    folder, config = tmp_path / "fold_0", tiny_config(epochs=3)
    message = "fold_0: weights stopped being finite in epoch 2; lower learning_rate=0.001, under another --runs"
    with pytest.raises(Diverged, match=message):
        train(folder, config, extra=(spoil(1, 0),))
    assert not (folder / runs.METRICS).exists()
    state, variables = state_of(folder)
    assert len(state["history"]) == 1 and all(np.isfinite(value).all() for value in variables.values())
    assert train(folder, config, resume=True).epochs == 3


@pytest.fixture
def finite(request):
    """The callback that looks for NaN, on a network of the precision asked for."""
    from lib.callbacks import Finite
    from lib.models import build_model
    from lib.training import compile_model

    config = tiny_config(depth=1, precision=request.param)
    model = build_model(config)
    compile_model(model, config, (1.0,) * 5)
    callback = Finite(runs.Run(Path("fold_0"), config, Split.of(tiny_data(), config, 0)))
    callback.set_model(model)
    callback.on_epoch_end(0, {"loss": 1.0})
    return callback


@pytest.mark.parametrize("finite", ["float32", "mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_stops_being_finite(finite, loss):
    from lib.callbacks import Diverged

    more = " or give up precision=mixed_bfloat16" * (finite.run.config.precision != "float32")
    with pytest.raises(Diverged, match=f"the loss became {loss} in epoch 3; lower learning_rate=0.001{more}, under"):
        finite.on_epoch_end(2, {"loss": loss})


@pytest.mark.parametrize("finite", ["mixed_float16"], indirect=True)
def test_a_step_that_overflows_now_and_then_is_no_divergence(finite):
    """Mixed float16 finds its loss scale by overflowing; only a scale that no step fits under is the end."""
    from lib.callbacks import Diverged

    finite.on_epoch_end(0, {"loss": float("inf")})
    finite.model.optimizer.dynamic_scale.assign(0.5)
    with pytest.raises(Diverged, match="step after step overflowed in epoch 1; .* or give up precision=mixed_float16"):
        finite.on_epoch_end(0, {"loss": 1.0})


@pytest.mark.parametrize("finite", ["float32"], indirect=True)
@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_any_variable_that_stops_being_finite(finite, part):
    """An optimizer's average that overflowed holds a weight still for ever, while all weights look well."""
    from lib.callbacks import Diverged

    owner = finite.model if part == "model" else finite.model.optimizer
    variable = owner.variables[-1]
    variable.assign(variable * np.nan)
    with pytest.raises(Diverged, match="weights stopped being finite"):
        finite.on_epoch_end(0, {"loss": 1.0})


def test_the_state_of_another_run_is_refused(straight, tmp_path):
    folder, config = tmp_path / "fold_1", tiny_config(**FALLING)
    train(folder, config.replace(epochs=1), fold=1)
    shutil.copy(straight / runs.STATE, folder / runs.STATE)
    with pytest.raises(UserError, match=r"state.npz: is the state of another run"):
        train(folder, config, fold=1, resume=True)


def test_batches_repeat_for_any_epoch():
    from lib.training import Batches

    data, config = tiny_data(), tiny_config(flip=0.5)
    batches = Batches(data.images, data.masks, config)
    drawn = []
    for epoch in (0, 1, 1, 0):
        batches.begin(epoch)
        drawn.append([np.stack(batch) for batch in batches])
    np.testing.assert_array_equal(drawn[1], drawn[2])
    np.testing.assert_array_equal(drawn[0], drawn[3])
    assert not np.array_equal(drawn[0][0], drawn[1][0])


def test_no_thread_of_tf_data_has_to_end_with_an_epoch():
    """Its autotuning thread, missing its end, would keep an epoch waiting for as long again."""
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    from lib.training import Batches

    data = tiny_data()
    dataset = PyDatasetAdapter(Batches(data.images, data.masks, tiny_config()), shuffle=False).get_tf_dataset()
    assert dataset.options().autotune.enabled is False


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_a_group_of_weights_has_a_learning_rate_of_its_own(share):
    """Against AdamW by hand, of a weight in the group, one outside, and a bias, which does not decay."""
    import keras

    from lib.training import LayerwiseAdamW

    rate, decay, start = 0.1, 0.5, np.array([2.0, -1.0, 3.0])
    weights = [keras.Variable(start, dtype="float32", name=name) for name in ("transformer_kernel", "kernel", "bias")]
    optimizer = LayerwiseAdamW(rate, weight_decay=decay, multipliers={"transformer": share})
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    expected = []
    gradients = [np.array([1.0, -2.0, 0.5]), np.array([0.5, 1.0, -0.5]), np.array([-3.0, 0.1, 0.0])]
    for own, decays in ((rate * share, decay), (rate, decay), (rate, 0.0)):
        weight, first, second = start.copy(), np.zeros(3), np.zeros(3)
        for step, gradient in enumerate(gradients, 1):
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            moments = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-7)
            weight = weight - own * decays * weight - own * moments
        expected.append(weight)
    for gradient in gradients:
        optimizer.apply([np.float32(gradient)] * 3, weights)
    np.testing.assert_allclose([np.asarray(weight) for weight in weights], expected, rtol=1e-4)


def test_without_groups_it_is_adamw(tmp_path):
    import keras

    from lib.training import LayerwiseAdamW

    settings, results = dict(learning_rate=0.1, weight_decay=0.5), []
    for optimizer in (keras.optimizers.AdamW(**settings), LayerwiseAdamW(**settings, multipliers={})):
        weight = keras.Variable(np.linspace(-1, 1, 7), dtype="float32")
        for step in range(3):
            optimizer.apply([np.sin(np.arange(7, dtype=np.float32) + step)], [weight])
        results.append([np.asarray(value) for value in (weight, *optimizer.variables)])
    for one, other in zip(*results):  # so that checkpoints of one serve the other
        np.testing.assert_array_equal(one, other)


def test_only_the_weights_of_transformers_learn_slower():
    from lib.models import build_model
    from lib.training import compile_model

    config = tiny_config(transformer="bottleneck", transformer_rate=0.25)
    model = build_model(config)
    compile_model(model, config, (1.0,) * 5)
    assert model.optimizer.multipliers == {"transformer": 0.25}
    parts = [variable.path for variable in model.trainable_variables if "transformer" in variable.path]
    assert 0 < len(parts) < len(model.trainable_variables)


def test_without_git_the_commit_is_unknown(monkeypatch, tmp_path):
    from lib.training import environment

    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment().commit is None
    (tmp_path / "git").write_text("#!/bin/sh\necho 66beaee-dirty")
    (tmp_path / "git").chmod(0o755)
    assert environment().commit == "66beaee-dirty"


def test_half_precision_trains(tmp_path):
    assert train(tmp_path / "fold_0", tiny_config(precision="mixed_float16", epochs=1)).epochs == 1


@pytest.mark.parametrize("fold", [3, -1])
def test_a_fold_that_does_not_exist(fold):
    with pytest.raises(UserError, match="folds 0 to 2"):
        Split.of(tiny_data(), tiny_config(), fold)


def test_split_round_trip():
    split = Split.of(tiny_data(), tiny_config(), 1)
    again = Split.from_json(split.to_json())
    np.testing.assert_array_equal(again.train, split.train)
    np.testing.assert_array_equal(again.validation, split.validation)
    assert not set(split.train) & set(split.validation)
    assert (again.fold, again.digest) == (1, "digest 0")


def test_find_runs_names_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="train one first"):
        runs.find_runs([], tmp_path)
    with pytest.raises(UserError, match="no run there"):
        runs.find_runs(["ninth"], tmp_path)


def test_find_runs_takes_all_folds_of_an_experiment(straight):
    found = runs.find_runs([str(straight.parent), str(straight)], straight.parent.parent)
    assert [run.folder for run in found] == [straight]


def test_rate_decay_and_loss_come_from_the_config():
    from lib.models import build_model
    from lib.training import compile_model

    config = tiny_config(learning_rate=0.02, weight_decay=0.03, dice=0.5, ignore_background=False)
    model = build_model(config)
    compile_model(model, config, (1.0, 2.0, 3.0, 4.0, 5.0))
    assert float(model.optimizer.learning_rate) == pytest.approx(0.02)
    assert model.optimizer.weight_decay == 0.03
    settings = model.loss.get_config()
    assert settings["dice"] == 0.5 and not settings["ignore_background"] and settings["class_weights"][4] == 5
    names = [variable.name for variable in model.trainable_variables if model.optimizer._use_weight_decay(variable)]
    assert set(names) == {"kernel"}


# Schedules and averaged weights

AVERAGED = dict(schedule="cosine", average=0.9, learning_rate=0.02)


def test_the_cosine_rises_and_falls_to_zero():
    from lib.training import WARMUP, learning_rate

    schedule = learning_rate(tiny_config(schedule="cosine", epochs=10, learning_rate=0.5), steps=40)
    rates = np.array([float(schedule(step)) for step in range(401)])
    top = round(400 * WARMUP)
    assert rates[0] == 0 and rates[top] == pytest.approx(0.5) and rates[400] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(np.diff(rates[: top + 1]), 0.5 / top, rtol=1e-3)
    assert (np.diff(rates[top:]) < 0).all()
    assert rates[top + (400 - top) // 2] == pytest.approx(0.25)
    assert learning_rate(tiny_config(learning_rate=0.5), steps=40) == 0.5


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaged") / "fold_0"
    train(folder, tiny_config(**AVERAGED))
    return folder


def test_a_cosine_run_goes_on_weight_for_weight(averaged, tmp_path):
    import keras

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    folder = tmp_path / "fold_0"
    with pytest.raises(KeyboardInterrupt):
        train(folder, tiny_config(**AVERAGED), extra=(Interrupt(),))
    train(folder, tiny_config(**AVERAGED), resume=True)
    assert_same_run(averaged, folder)


def test_the_learning_rate_of_a_cosine_is_told_and_nothing_stops_it(averaged):
    rates = [row["learning_rate"] for row in runs.Run.open(averaged).history()]
    assert len(rates) == 4 and rates[-1] < 1e-4 and max(rates) <= 0.02
    assert rates[0] > rates[1] > rates[2] > rates[3]


def test_what_is_kept_is_the_average_and_training_goes_on_from_the_last_weights(tmp_path, monkeypatch):
    import keras

    from lib import callbacks
    from lib.training import compile_model

    # Writing the state seems to take so long that it is skipped wherever it may be
    ticks = itertools.count(0, 1e-3)
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    folder = tmp_path / "fold_0"
    train(folder, tiny_config(**{**AVERAGED, "learning_rate": 0.002}, epochs=2))
    assert runs.Run.open(folder).metrics().best_epoch == 2
    run = runs.Run.open(folder)
    model = run.build_model()
    run.weights(model)
    kept = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    values = list(state_of(folder)[1].values())
    compile_model(model, run.config, (1.0,) * 5)
    optimizer = [variable.path for variable in model.optimizer.variables]
    first = optimizer.index(model.optimizer._model_variables_moving_average[0].path) + len(model.variables)
    place = {id(variable): number for number, variable in enumerate(model.variables)}
    places = [place[id(variable)] for variable in model.trainable_variables]
    for average, number in zip(values[first:], places):
        np.testing.assert_allclose(kept[number], average, rtol=1e-6)
    assert any(not np.allclose(kept[number], values[number]) for number in places)


def test_within_the_block_the_weights_are_averaged_and_afterwards_as_they_were():
    import keras

    from lib.averaging import Average
    from lib.models import build_model
    from lib.training import compile_model

    config = tiny_config(average=0.5, weight_decay=0.0, dropout=0.0)
    data, model = tiny_data(), build_model(config)
    compile_model(model, config, (1.0,) * 5)
    steps = []
    for start in (0, 8, 16):
        model.train_on_batch(data.images[start : start + 8], data.masks[start : start + 8])
        steps.append([keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables])
    expected = [0.25 * first + 0.25 * second + 0.5 * third for first, second, third in zip(*steps)]
    average = Average(model, data.images)
    for turn in range(3):  # the second time by what was measured before; the third time after another step
        before = model.get_weights()
        with average.applied():
            for variable, value in zip(model.trainable_variables, expected):
                np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), value, atol=1e-6)
            first, norm, *_ = model.get_layer("unet1_down_0").steps  # what the first one sees, all tiles at once
            scaled = model.get_layer("scaling")(data.images[..., None].astype("float32"))
            seen = keras.ops.convert_to_numpy(first(scaled))
            np.testing.assert_allclose(norm.moving_mean, seen.mean(axis=(0, 1, 2)), atol=1e-4)
            np.testing.assert_allclose(norm.moving_variance, seen.var(axis=(0, 1, 2)), rtol=1e-3)
        for one, other in zip(model.get_weights(), before):
            np.testing.assert_array_equal(one, other)
        if turn == 1:
            model.train_on_batch(data.images[:8], data.masks[:8])
            last = [keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables]
            expected = [0.5 * value + 0.5 * new for value, new in zip(expected, last)]
