"""The recipe: batches, optimizer, loss, schedule and early stopping of one fold (report, section 3.3)."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import keras
import numpy as np

from lib import callbacks, runs
from lib.augment import Augmenter, Windows, epoch_tiles
from lib.averaging import Average
from lib.children import HERE
from lib.commit import commit
from lib.config import Config
from lib.consistency import OwnLabels
from lib.console import Console
from lib.context import Surroundings, show
from lib.files import sha256
from lib.frames import Mosaic
from lib.losses import SegmentationLoss, class_weights
from lib.metrics import confusion_matrix, mean_iou
from lib.models import build_model
from lib.priors import corrected, correction
from lib.pseudo import Unlabelled
from lib.records import Environment, Metrics
from lib.runs import Run
from lib.task import CLASSES

LEARNT = {"pseudo": "with a teacher's labels", "consistency": "without labels"}  # what the tiles besides are called
WORKERS = 2
"""Threads that make batches. With fewer than two, Keras leaves that to tf.data, whose autotuning thread can miss its
end when the cores are busy (TensorFlow 2.20): an epoch that has ended then waits for as long as it took, or less."""
WARMUP = 0.05  # share of a cosine schedule in which the learning rate rises


class Batches(keras.utils.PyDataset):
    """Augmented batches of one training fold, (B, H, W) uint8 images and masks, of the epoch in `epoch`.

    Every epoch shows `len(batches) * batch_size` tiles of `epoch_tiles`; the remainder, drawn anew each epoch, sits
    out, so that all batches have one shape.

    Args:
        images, masks: (N, H, W) uint8, the training fold, and after it tiles without labels of people.
        windows, labelled: as for lib.augment.Augmenter.
    """

    def __init__(
        self,
        images: np.ndarray,
        masks: np.ndarray,
        config: Config,
        windows: Windows | None = None,
        labelled: int | None = None,
    ):
        super().__init__(workers=WORKERS)
        self.masks, self.config = masks[:labelled], config
        self.augmenter = Augmenter(images, masks, config, windows, labelled)
        self.unlabelled = len(masks) - len(self.masks)
        self.begin(0)
        self.batch_size = min(config.batch_size, len(self.indices))

    def begin(self, epoch: int) -> None:
        """Sets the epoch, and with it `indices` and `repeats` (L,) of the tiles in the order in which it shows them."""
        self.epoch = epoch
        self.indices, self.repeats = epoch_tiles(self.masks, self.config, epoch, self.unlabelled)

    def label(self, chosen: np.ndarray, masks: np.ndarray) -> None:
        """Gives the tiles without labels of people whose numbers among these are `chosen` (n,) such masks; others none.

        Args:
            masks: (n, H, W) uint8.
        """
        self.augmenter.relabel(len(self.masks), len(self.masks) + chosen, masks)

    def __len__(self) -> int:
        return len(self.indices) // self.batch_size

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        part = slice(step * self.batch_size, (step + 1) * self.batch_size)
        return self.augmenter.batch(self.indices[part], self.epoch, self.repeats[part])


@keras.saving.register_keras_serializable("mars")
class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW with learning rates of their own for some weights, as PyTorch's parameter groups have.

    The rate scales a weight's decay, too: decoupled decay is `learning_rate * weight_decay * weight` a step
    (Loshchilov & Hutter 2019, algorithm 2).

    Args:
        multipliers: learning rate as a share of the others', by a part of the weights' paths.
    """

    def __init__(self, *args, multipliers: dict[str, float], **kwargs):
        super().__init__(*args, **kwargs)
        self.multipliers = dict(multipliers)

    def get_config(self):
        return {**super().get_config(), "multipliers": self.multipliers}

    def update_step(self, gradient, variable, learning_rate):
        # TensorFlow hands in its own variable, which does not know its path
        path = self._trainable_variables[self._get_variable_index(variable)].path
        rate = learning_rate * next((share for part, share in self.multipliers.items() if part in path), 1.0)
        if self._use_weight_decay(variable):
            self.assign_sub(variable, variable * self.weight_decay * rate)
        super().update_step(gradient, variable, rate)

    def _apply_weight_decay(self, variables):
        pass  # Keras's own takes one learning rate for all; update_step does it


def learning_rate(config: Config, steps: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The config's learning rate, or what it is at each step of epochs with so many `steps`.

    `cosine`: a linear rise, then half a cosine down to zero with the last step (Loshchilov & Hutter 2017, without
    restarts).
    """
    if config.schedule == "plateau":
        return config.learning_rate
    rising = max(1, round(WARMUP * steps * config.epochs))
    falling = max(1, steps * config.epochs - rising)
    return keras.optimizers.schedules.CosineDecay(0.0, falling, warmup_target=config.learning_rate, warmup_steps=rising)


def compile_model(model: keras.Model, config: Config, weights: tuple[float, ...], steps: int = 1) -> None:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019) and the config's loss with its class weights.

    Biases and normalisation weights are not decayed. With float16 the loss is scaled dynamically. `steps`: of an epoch,
    for schedule=cosine.
    """
    settings: dict[str, Any] = dict(learning_rate=learning_rate(config, steps), weight_decay=config.weight_decay)
    if config.average:
        settings |= dict(use_ema=True, ema_momentum=config.average)
    if config.transformer_rate == 1.0:
        optimizer = keras.optimizers.AdamW(**settings)
    else:
        optimizer = LayerwiseAdamW(**settings, multipliers={"transformer": config.transformer_rate})
    optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])
    if config.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    loss = SegmentationLoss(config.cross_entropy, config.dice, config.focal, weights, config.ignore_background)
    model.compile(optimizer, loss)
    optimizer.build(model.trainable_variables)


def train_fold(
    run: Run,
    dataset,
    console: Console,
    extra: tuple[keras.callbacks.Callback, ...] = (),
    mosaic: Mosaic | None = None,
    unlabelled: Unlabelled | None = None,
) -> Metrics:
    """Trains one run to its end, from its checkpoint if there is one, and writes metrics.json.

    Args:
        run: from lib.runs.prepare.
        dataset: the lib.data.Dataset whose digest the split names.
        extra: further Keras callbacks; they see the competition's score in the logs.
        mosaic: of the data, for a config whose network looks at more than its tile.
        unlabelled: tiles with pseudo-labels for a config with semi=pseudo, or with none yet for semi=consistency.

    Returns:
        The metrics, as written.

    Raises:
        UserError: when the fold cannot serve the config, the checkpoint is damaged, or (lib.callbacks.Diverged) loss or
            weights stop being finite.
        KeyboardInterrupt: on Ctrl-C; the run can be resumed.
    """
    config, split = run.config, run.split
    if (unlabelled is None) != (config.semi == "none"):
        raise ValueError(
            f"semi={config.semi}: tiles without labels are given where they are learnt from, and only there"
        )
    tiles = split.train
    images, masks = dataset.images[split.train], dataset.masks[split.train]
    shown, answers = images, masks
    if unlabelled:
        tiles = np.concatenate([tiles, unlabelled.tiles])
        shown, answers = np.concatenate([images, unlabelled.images]), np.concatenate([masks, unlabelled.masks])
    around = Surroundings.of(config, mosaic)
    windows = None if around is None else lambda indices: around.windows(tiles[indices])
    batches = Batches(shown, answers, config, windows, len(masks))
    model = build_model(config, *images.shape[1:])
    weights = class_weights(config, masks)
    compile_model(model, config, weights, len(batches))
    average = Average(model, show(images, split.train, around)) if config.average else None
    added = np.zeros(len(CLASSES), np.float32)
    if config.prior == "fold":
        # With semi=consistency the first epoch has tiles of the fold in place of those without labels: as frequent
        shown_masks = np.concatenate([batch[1] for batch in batches])
        added = correction(shown_masks, masks, weights, config.ignore_background)

    @contextmanager
    def kept() -> Iterator[None]:
        """Within the block the model has the weights that are scored and kept."""
        with average.applied() if average else nullcontext(), corrected(model, added):
            yield

    console.facts(
        fold=f"{'none' if split.fold is None else split.fold}: {len(split.train)} tiles to train on, "
        f"{len(split.validation)} to validate on"
        + (f", {len(unlabelled.tiles)} {LEARNT[config.semi]}" if unlabelled else ""),
        device=device(),
        parameters=f"{model.count_params():,}",
        run=run.folder,
    )
    if config.prior == "fold":
        told = ", ".join(f"{name} {value:+.2f}" for name, value in zip(CLASSES[1:], added[1:]))
        console.facts(priors=f"{told} on the kept network's logits")

    progress = callbacks.Progress(console, config.epochs, len(batches), batches.batch_size)
    # Without a validation fold only the training loss can steer the schedule, and nothing can stop it early.
    validated = len(split.validation) > 0
    monitor, mode = (callbacks.SCORE, "max") if validated else ("loss", "min")
    counters: dict[str, keras.callbacks.Callback] = {}
    if config.schedule == "plateau":
        counters["plateau"] = keras.callbacks.ReduceLROnPlateau(
            monitor, config.plateau_factor, config.plateau_patience, mode=mode, min_delta=0.0
        )
        if validated:
            counters["stopping"] = keras.callbacks.EarlyStopping(monitor, patience=config.patience, mode=mode)
    validation = None
    if validated:
        unseen = show(dataset.images[split.validation], split.validation, around), dataset.masks[split.validation]
        validation = callbacks.Validation(model, *unseen, config.predict_background, kept)
    teacher = unlabelled.teacher if unlabelled else None
    checkpoint = callbacks.Checkpoint(run, counters, kept, teacher)
    turn = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: batches.begin(epoch))
    chain: list[keras.callbacks.Callback] = [progress, turn]
    if unlabelled and config.semi == "consistency":

        def read(chosen: np.ndarray) -> np.ndarray:
            return show(unlabelled.images[chosen], unlabelled.tiles[chosen], around)

        chain.append(OwnLabels(model, batches, unlabelled, read, config.sure, kept))
    chain += [callbacks.Finite(run), *([validation] if validation else []), callbacks.Report(progress)]
    chain += [*(counters.values() or [callbacks.LearningRate()]), *extra, checkpoint]

    scored: dict[str, Any] = {}
    if validation:
        scored["untrained_mean_iou"] = validation.scores()["mean_iou"]
        scored["constant_mean_iou"] = constant_score(masks, validation.masks)

    first = checkpoint.restore(model)
    run.begin()
    progress.best = checkpoint.best
    if first:
        console.line(f"resumed after epoch {first}")
    else:
        runs.write_text(run.folder / runs.ENVIRONMENT, environment().to_json())
    if first < config.epochs and not checkpoint.stopped:
        model.fit(
            batches,
            shuffle=False,
            initial_epoch=first,
            epochs=config.epochs,
            callbacks=chain,
            verbose=0,
        )

    if validation:
        run.weights(model)
        scored |= validation.scores()
    metrics = Metrics(
        parameters=model.count_params(),
        epochs=len(checkpoint.history),
        teacher=teacher,
        best_epoch=checkpoint.best_epoch + 1,
        seconds=sum(row["seconds"] for row in checkpoint.history),
        files={name: sha256(run.folder / name) for name in (runs.CONFIG, runs.SPLIT, runs.HISTORY, runs.WEIGHTS)},
        **scored,
    )
    runs.write_text(run.folder / runs.METRICS, metrics.to_json())
    return metrics


def constant_score(train_masks: np.ndarray, masks: np.ndarray) -> float:
    """The score on `masks` of answering everywhere with the commonest labelled class of `train_masks`."""
    commonest = np.bincount(train_masks.ravel(), minlength=2)[1:].argmax() + 1
    return mean_iou(confusion_matrix(masks, np.full_like(masks, commonest)))


def device() -> str:
    """What Keras computes on, in words: `tensorflow on 2 CPU cores with oneDNN`, `jax on NVIDIA H100 80GB HBM3`."""
    backend = keras.backend.backend()
    names = [f"{os.cpu_count()} CPU cores"]
    if backend == "jax":
        import jax

        names = [item.device_kind for item in jax.devices() if item.platform != "cpu"] or names
    elif backend == "tensorflow":
        import tensorflow as tf

        if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "1":
            names = [f"{names[0]} with oneDNN"]
        gpus = tf.config.list_physical_devices("GPU")
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus] or names
    return f"{backend} on {', '.join(names)}"


def environment() -> Environment:
    """Versions, backend, device and the code's commit: what a result depends on besides config and data."""
    backend = __import__(keras.backend.backend())
    return Environment(
        python=platform.python_version(),
        system=platform.platform(),
        keras=keras.__version__,
        numpy=np.__version__,
        device=device(),
        commit=commit(HERE),
        **{keras.backend.backend(): backend.__version__},
    )
