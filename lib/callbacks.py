"""What happens between epochs: the competition's score, the progress bar, the checkpoint that resume starts from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import keras
import numpy as np
import pandas as pd

from lib import runs, weights
from lib.console import Console, UserError
from lib.files import replacing
from lib.metrics import Scores, confusion_matrix, scores
from lib.npz import load
from lib.predict import BATCH, labels, predict_probabilities, probability_model
from lib.runs import Run
from lib.task import CLASSES

SCORE = "mean_iou"
_COLUMNS = {name: "iou_" + name.replace(" ", "_") for name in CLASSES[1:]}

Kept = Callable[[], AbstractContextManager]


class Validation(keras.callbacks.Callback):
    """Adds the competition's score on the validation fold to the logs: `mean_iou`, `iou_soil`, ..., all float.

    Args:
        network: the model that is trained.
        images: (N, H, W) uint8, or (N, H, W, C) with what the network sees besides: the untouched validation fold.
        masks: (N, H, W) uint8.
        background: whether the prediction may answer background.
        kept: gives a context in which the network has the weights that are to be scored; by default those it has.
    """

    def __init__(
        self, network: keras.Model, images: np.ndarray, masks: np.ndarray, background: bool, kept: Kept = nullcontext
    ):
        super().__init__()
        self._kept = kept
        self.images, self.masks, self.background = images, masks, background
        self._probabilities = probability_model(network)

    def scores(self) -> Scores:
        """lib.metrics.scores of the network's present weights."""
        confusion = np.zeros((len(CLASSES),) * 2, np.int64)
        for start in range(0, len(self.images), BATCH):
            part = slice(start, start + BATCH)
            chances = predict_probabilities(self._probabilities, self.images[part])
            confusion += confusion_matrix(self.masks[part], labels(chances, self.background))
        return scores(confusion)

    def on_epoch_end(self, epoch, logs):
        with self._kept():
            result = self.scores()
        logs[SCORE] = result["mean_iou"]
        for name, column in _COLUMNS.items():
            value = result["iou"][name]
            logs[column] = float("nan") if value is None else value


class LearningRate(keras.callbacks.Callback):
    """Adds `learning_rate`, the last step's, to the logs where no other callback does."""

    def on_epoch_end(self, epoch, logs):
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))


class Progress(keras.callbacks.Callback):
    """A bar per epoch with loss, best score so far, rate and time left.

    Args:
        steps, batch_size: of an epoch, for the rate in tiles per second.
    """

    async_safe = True  # lets the GPU run ahead of the bar

    def __init__(self, console: Console, epochs: int, steps: int, batch_size: int):
        super().__init__()
        self.console, self.epochs, self.steps, self.batch_size = console, epochs, steps, batch_size
        self.best: float | None = None

    def on_epoch_begin(self, epoch, logs=None):
        title = f"epoch {epoch + 1}/{self.epochs}"
        self._bar = self.console.progress(self.steps * self.batch_size, title, "tile")
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        best = "-" if self.best is None else f"{self.best:.4f}"
        self._bar.set_postfix(loss=f"{logs['loss']:.4f}", best=best, refresh=False)
        self._bar.update(self.batch_size)

    def on_epoch_end(self, epoch, logs):
        """Comes before the validation: `seconds` and `tiles_per_second` are training alone."""
        self._bar.close()
        logs["seconds"] = time.perf_counter() - self._started
        logs["tiles_per_second"] = self.steps * self.batch_size / logs["seconds"]


class Report(keras.callbacks.Callback):
    """The line that an epoch leaves in the console, once its score is known."""

    def __init__(self, progress: Progress):
        super().__init__()
        self.progress = progress

    def on_epoch_end(self, epoch, logs):
        line = f"epoch {epoch + 1:3d}/{self.progress.epochs}  loss {logs['loss']:.4f}"
        if SCORE in logs:
            best = self.progress.best
            mark = "*" if best is None or logs[SCORE] > best else " "
            self.progress.best = logs[SCORE] if mark == "*" else best
            line += f"  mean IoU {logs[SCORE]:.4f}{mark} (best {self.progress.best:.4f})"
        self.progress.console.line(line + f"  {logs['tiles_per_second']:.0f} tiles/s  {logs['seconds']:.0f} s")


class Diverged(UserError):
    """A training whose loss or weights are not finite any more."""


class Finite(keras.callbacks.Callback):
    """Ends a training with Diverged after an epoch that left NaN or infinity, before anything of it is written."""

    def __init__(self, run: Run):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch, logs):
        wrong = self._what_is_wrong(logs["loss"])
        if wrong:
            config = self.run.config
            lower = f"lower learning_rate={config.learning_rate:g}"
            if config.precision != "float32":
                lower += f" or give up precision={config.precision}"
            where = "under another --runs folder, or delete this one; what was good until then stays in it"
            raise Diverged(f"{self.run.folder}: {wrong} in epoch {epoch + 1}; {lower}, {where}")

    def _what_is_wrong(self, loss: float) -> str:
        if not all(np.isfinite(keras.ops.convert_to_numpy(variable)).all() for variable in _variables(self.model)):
            return "weights stopped being finite"
        optimizer = self.model.optimizer
        if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            return "" if np.isfinite(loss) else f"the loss became {loss:g}"
        # It leaves out a step that overflows and halves its scale: now and then that is how it finds the scale
        return "" if float(optimizer.dynamic_scale) >= 1 else "step after step overflowed"


class Checkpoint(keras.callbacks.Callback):
    """Keeps the best weights, and everything that a resumed training needs to go on as if nothing had happened.

    Best is the highest score; without a validation fold, and with keep=last, every epoch replaces the weights. The
    state is every variable of model and optimizer (learning rate and dropout seeds among them), the counters of the
    schedule and of early stopping, and the history. It is written after an epoch, the best weights before it: a process
    killed between the two repeats the epoch and writes the same weights again. Writing the state is skipped while it
    would take more than a tenth of the time since the last one.

    Args:
        run: whose folder is written.
        counters: callbacks by name whose counters belong to the state.
        kept: gives a context in which the model has the weights that are to be kept; by default those it has.
        teacher: digest of whose pseudo-labels are learnt from; a resumed training must have the same.
    """

    ATTRIBUTES = ("best", "wait", "cooldown_counter", "stopped_epoch", "best_epoch")

    def __init__(
        self,
        run: Run,
        counters: dict[str, keras.callbacks.Callback],
        kept: Kept = nullcontext,
        teacher: str | None = None,
    ):
        super().__init__()
        self._kept, self._teacher = kept, teacher
        self.run, self.folder, self.counters = run, run.folder, counters
        self.history: list[dict[str, float]] = []
        self.best_epoch = -1
        self._written, self._cost = 0.0, 0.0
        self._saved_epoch = -1
        self._restored: dict | None = None

    def restore(self, model) -> int:
        """Sets model and optimizer to the saved state and returns the next epoch; 0 where nothing is saved.

        Raises UserError when the state is damaged, or belongs to another network or run.
        """
        path = self.folder / runs.STATE
        if not path.exists():
            return 0
        variables = _variables(model)
        arrays = load(path, ["state", *(f"v{number}" for number in range(len(variables)))])
        state, values = json.loads(str(arrays.pop("state"))), list(arrays.values())
        if state.get("run", self._name()) != self._name():  # which older versions did not write
            raise UserError(f"{path}: is the state of another run; delete {self.folder} and train again")
        if state.get("teacher") != self._teacher:
            raise UserError(
                f"{path}: was taught by other weights than its teacher has now; delete {self.folder} and train again"
            )
        if any(value.shape != tuple(variable.shape) for value, variable in zip(values, variables)):
            raise UserError(f"{path}: is the state of another network; delete {self.folder} and train again")
        for variable, value in zip(variables, values):
            variable.assign(value)
        self.history, self.best_epoch, self._restored = state["history"], state["best_epoch"], state
        self._saved_epoch = len(self.history) - 1
        return len(self.history)

    @property
    def stopped(self) -> bool:
        """Whether the restored training had been ended by early stopping."""
        return bool(self._restored and self._restored["stopped"])

    @property
    def best(self) -> float | None:
        """The best score so far; None before the first epoch and without a validation fold."""
        return self.history[self.best_epoch].get(SCORE) if self.history else None

    def on_train_begin(self, logs=None):
        # Keras's callbacks reset themselves when training begins; this one comes last and puts them back.
        if self._restored:
            for name, callback in self.counters.items():
                for attribute, value in self._restored["counters"][name].items():
                    setattr(callback, attribute, value)
        self._written = time.perf_counter()

    def on_epoch_end(self, epoch, logs):
        previous = self.best
        self.history.append({"epoch": epoch + 1, **{key: float(value) for key, value in logs.items()}})
        if previous is None or self.run.config.keep == "last" or logs[SCORE] > previous:
            self.best_epoch = epoch
            with self._kept():
                weights.save(self.folder / runs.WEIGHTS, self.model)
        started = time.perf_counter()
        if started - self._written >= 10 * self._cost or self._is_last(epoch):
            self.save()
            self._written = time.perf_counter()
            self._cost = self._written - started

    def _is_last(self, epoch: int) -> bool:
        """Whether training ends here: what Keras does to averaged weights afterwards must not be in the state."""
        return self.model.stop_training or epoch + 1 == self.run.config.epochs

    def save(self) -> None:
        """Writes state and history now, unless this epoch's are written already."""
        if self._saved_epoch == len(self.history) - 1:
            return
        state = {
            "run": self._name(),
            "teacher": self._teacher,
            "history": self.history,
            "best_epoch": self.best_epoch,
            "stopped": bool(self.model.stop_training),
            "counters": {
                name: {key: _plain(getattr(callback, key)) for key in self.ATTRIBUTES if hasattr(callback, key)}
                for name, callback in self.counters.items()
            },
        }
        arrays = {f"v{number}": np.asarray(variable.numpy()) for number, variable in enumerate(_variables(self.model))}
        with replacing(self.folder / runs.STATE, "wb") as stream:
            np.savez(stream, state=json.dumps(state), **arrays)
        with replacing(self.folder / runs.HISTORY, newline="") as stream:
            pd.DataFrame(self.history).to_csv(stream, index=False)
        self._saved_epoch = len(self.history) - 1

    def _name(self) -> dict[str, object]:
        """What a state must have in common with the run that goes on from it."""
        config = self.run.config.model_dump(mode="json", exclude={"epochs"}, exclude_defaults=True)
        return {"data": self.run.split.digest, "fold": self.run.split.fold, "config": config}


def _variables(model) -> list:
    """Every variable of model (seeds among them) and optimizer, in a fixed order."""
    return [*model.variables, *model.optimizer.variables]


def _plain(value):
    return value.item() if isinstance(value, np.generic) else value
