"""What training learns from: labels of their own tiles, the training fold alone, another draw in every epoch; and what
steers it: the schedule, early stopping and the best weights follow the score."""

import dataclasses

import keras
import numpy as np
import pytest

from lib import runs, training
from lib.callbacks import Validation
from lib.config import Config
from lib.console import Console
from lib.data import Dataset
from lib.metrics import scores
from lib.models import build_model
from lib.pseudo import Unlabelled
from lib.records import Metrics
from lib.runs import Split
from lib.training import constant_score, train_fold

QUIET = Console(quiet=True)
SIZE = (16, 32)  # small tiles are quick to train on
PLAIN = Config(
    width=4, depth=1, nesting=1, dspp_rates=(), attention="none", folds=3, batch_size=4, learning_rate=0.02,
    shift_down=0, shift_across=0, copy_paste=0.0, oversample=1,
)  # fmt: skip
MOVED = PLAIN.replace(flip=0.5, shift_down=7, shift_across=15, oversample=3)


def make_dataset(images: np.ndarray, masks: np.ndarray, outliers=()) -> Dataset:
    marked = np.isin(np.arange(len(masks)), outliers)
    return Dataset("made", images, masks, marked, images[:0], None, "digest")


def numbered(count: int = 36, outliers=(3, 8, 20, 31)) -> Dataset:
    """Tiles whose every pixel tells the tile and the label: grey = 40 * label + number of the tile."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 4, (count, 4, 8)).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    masks[::3, 4:12, 8:16] = 4
    return make_dataset(masks * np.uint8(40) + np.arange(count, dtype=np.uint8)[:, None, None], masks, outliers)


def train(
    folder, data: Dataset, config: Config, fold: int | None = 0, split=None, resume=False, unlabelled=None
) -> Metrics:
    split = split or Split.of(data, config, fold)
    return train_fold(runs.prepare(folder / "fold", config, split, resume), data, QUIET, unlabelled=unlabelled)


# A network that must learn a handful of tiles


def learnable() -> Dataset:
    """18 tiles of blocky classes whose grey level tells the class, three of four blocks labelled."""
    rng = np.random.default_rng(0)
    masks = rng.integers(1, 5, (18, 4, 8)).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    images = masks * 45 + rng.integers(0, 20, masks.shape, dtype=np.uint8)
    unlabelled = rng.random((18, 4, 8)) < 0.25
    masks[unlabelled.repeat(4, 1).repeat(4, 2)] = 0
    return make_dataset(images, masks)


def learnt(folder, data: Dataset, truth: np.ndarray, split: Split) -> float:
    """Trains on `data` and scores the network on its own training tiles against `truth`."""
    train(folder, data, PLAIN.replace(epochs=15, batch_size=2), split=split)
    run = runs.Run.open(folder / "fold")
    model = build_model(run.config, *SIZE)
    run.weights(model)
    answer = np.asarray(model.predict_on_batch(data.images[split.train]))[..., 1:].argmax(-1) + 1
    wanted = truth[split.train]
    ious = [
        ((answer == label) & (wanted == label)).sum() / (((answer == label) | (wanted == label)) & (wanted > 0)).sum()
        for label in range(1, 5)
    ]
    return float(np.mean(ious))


def test_a_network_learns_a_handful_of_tiles(tmp_path):
    data = learnable()
    assert learnt(tmp_path, data, data.masks, Split.of(data, PLAIN, 0)) > 0.9  # a constant answer gets 0.07


def test_a_network_learns_nothing_from_the_labels_of_other_tiles(tmp_path):
    data = learnable()
    split = Split.of(data, PLAIN, 0)
    exchanged = data.masks.copy()
    exchanged[split.train] = np.roll(data.masks[split.train], 1, axis=0)
    assert learnt(tmp_path, dataclasses.replace(data, masks=exchanged), data.masks, split) < 0.4


# What it is given


@pytest.fixture
def given(tmp_path, monkeypatch):
    """What a training gives to Keras: `given(data, config)` -> the arguments of `fit` and the model; nothing is fit."""

    class Seen(Exception):
        pass

    def run(data: Dataset, config: Config, fold: int | None = 0, split: Split | None = None, unlabelled=None) -> dict:
        found = {}

        def fit(model, batches, **settings):
            found.update(settings, model=model, batches=batches)
            raise Seen

        monkeypatch.setattr(keras.Model, "fit", fit)
        monkeypatch.setattr(Validation, "scores", lambda _: scores(np.zeros((5, 5), int)))
        with pytest.raises(Seen):
            train(tmp_path, data, config, fold, split, unlabelled=unlabelled)
        return found

    return run


def shown(given: dict, epochs: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and masks (L, H, W) of each of the first epochs."""
    found = []
    assert not given["shuffle"]  # Keras would, and by the global generator
    chain = keras.callbacks.CallbackList(given["callbacks"], model=given["model"])
    for epoch in range(epochs):
        chain.on_epoch_begin(epoch)
        found.append(tuple(np.concatenate(part) for part in zip(*given["batches"])))
    return found


def test_tiles_come_with_their_own_labels_however_they_are_moved(given):
    for images, masks in shown(given(numbered(), MOVED), 2):
        np.testing.assert_array_equal(images // 40, masks)
        assert (images % 40 == images[:, :1, :1] % 40).all()


def test_the_training_fold_is_shown_and_nothing_else(given):
    data = numbered()
    split = Split.of(data, MOVED, 0)
    rocky = (data.masks == 4).any(axis=(1, 2))
    wanted = np.zeros(36, int)
    wanted[split.train] = np.where(rocky[split.train], 3, 1)
    found = given(data, MOVED.replace(batch_size=1))  # no remainder sits out
    assert len(found["batches"]) == wanted.sum()
    for images, _ in shown(found, 2):
        assert np.bincount(images[:, 0, 0] % 40, minlength=36).tolist() == wanted.tolist()


def test_tiles_with_a_teacher_s_labels_are_shown_beside_the_fold_and_leave_all_else_as_it_is(given):
    """Half as many as the fold has, all in turn, with their own labels; class weights know nothing of them."""
    data = numbered()
    config = PLAIN.replace(batch_size=1, class_weights="inverse")
    alone = given(data, config)
    masks = np.random.default_rng(1).integers(0, 5, (24, *SIZE)).astype(np.uint8)
    images = 200 + np.arange(24, dtype=np.uint8)[:, None, None] + 0 * masks
    others = Unlabelled(np.arange(36, 60), images, masks, "a teacher")
    found = given(data, config.replace(semi="pseudo", unlabelled=0.5), unlabelled=others)
    count = len(Split.of(data, config, 0).train) // 2
    assert len(found["batches"]) == len(alone["batches"]) + count
    assert found["model"].loss.class_weights == alone["model"].loss.class_weights
    seen = []
    for (images, labels), (usual, _) in zip(shown(found, 4), shown(alone, 4)):
        theirs = images[:, 0, 0] >= 200
        assert theirs.sum() == count
        assert sorted(images[~theirs, 0, 0] % 40) == sorted(usual[:, 0, 0] % 40)
        numbers = images[theirs][:, 0, 0] - 200
        np.testing.assert_array_equal(labels[theirs], masks[numbers])
        seen += numbers.tolist()
    assert np.ptp(np.bincount(seen)) <= 1 and len(set(seen)) == 24


def test_without_a_fold_every_clean_tile_is_shown(given):
    data = numbered()
    images, _ = shown(given(data, PLAIN.replace(batch_size=1), fold=None), 1)[0]
    assert sorted(images[:, 0, 0] % 40) == np.flatnonzero(~data.outliers).tolist()


@pytest.mark.parametrize("fold", (0, 1, 2))
def test_a_split_is_all_clean_tiles_each_once(fold):
    data = numbered()
    split = Split.of(data, PLAIN, fold)
    assert sorted([*split.train, *split.validation]) == np.flatnonzero(~data.outliers).tolist()
    assert len(split.validation) in (10, 11)


def test_folds_follow_their_own_seed():
    data = numbered()
    first, same, other = (
        Split.of(data, PLAIN.replace(seed=seed, fold_seed=folds), 0).validation.tolist()
        for seed, folds in ((0, 0), (1, 0), (0, 1))
    )
    assert first == same != other


def test_every_epoch_draws_anew(given):
    first, second = (images for images, _ in shown(given(numbered(), MOVED.replace(batch_size=1)), 2))
    assert (first[:, 0, 0] % 40).tolist() != (second[:, 0, 0] % 40).tolist()  # another order
    drawn = {image.tobytes() for image in first}
    assert len(drawn) > 0.9 * len(first)  # a rock tile is not thrice the same
    assert sum(image.tobytes() in drawn for image in second) < 0.1 * len(second)


def test_the_validation_fold_is_scored_as_it_is(given):
    data = numbered()
    split = Split.of(data, MOVED, 0)
    (validation,) = [callback for callback in given(data, MOVED)["callbacks"] if isinstance(callback, Validation)]
    np.testing.assert_array_equal(validation.images, data.images[split.validation])
    np.testing.assert_array_equal(validation.masks, data.masks[split.validation])
    assert len(split.validation) and not set(split.validation) & {*split.train, 3, 8, 20, 31}


@pytest.mark.parametrize("field", ("copy_paste", "synthesis"))
def test_cutouts_come_from_the_training_fold_alone(given, field):
    """Soil of grey 100 with objects of grey 150 in the training fold, 250 in validation tiles and outliers."""
    data = numbered()
    masks = np.where(data.masks == 4, 4, 1).astype(np.uint8)
    masks[1::3, 3:13, 8:20] = 2
    images = np.full_like(masks, 100)
    data = dataclasses.replace(data, images=images, masks=masks)
    config = PLAIN.replace(**{field: 1.0})
    train_tiles = np.isin(np.arange(36), Split.of(data, config, 0).train)
    images[masks > 1] = np.where(train_tiles, 150, 250).repeat((masks > 1).sum(axis=(1, 2)))
    drawn = shown(given(data, config), 3)
    assert max(images.max() for images, _ in drawn) < 190  # brightness follows the ground by a sixth
    assert np.mean([(labels == 4).mean() for _, labels in drawn]) > 1.5 * (masks[train_tiles] == 4).mean()


def test_class_weights_come_from_the_training_fold_alone(given):
    """Twice as much soil as bedrock in the training fold; the other tiles are all sand."""
    data = numbered()
    split = Split.of(data, PLAIN, 0)
    masks = np.full_like(data.masks, 3)
    masks[split.train] = 0
    masks[split.train, 4:] = 2
    masks[split.train, 8:] = 1
    found = given(dataclasses.replace(data, masks=masks), PLAIN.replace(class_weights="inverse"), split=split)
    assert found["model"].loss.get_config()["class_weights"] == (2.0, 1.0, 2.0, 1.0, 1.0)


def test_priors_come_from_the_training_fold_alone(given, monkeypatch):
    """What there is: the fold as it is; what is shown: its first epoch, rocky tiles three times."""
    data, config, seen = numbered(), PLAIN.replace(oversample=3, batch_size=1, prior="fold"), []
    monkeypatch.setattr(training, "correction", lambda *those: seen.extend(those) or np.zeros(5, np.float32))
    split = Split.of(data, config, 0)
    given(data, config)
    shown_masks, masks, weights, ignore = seen
    np.testing.assert_array_equal(masks, data.masks[split.train])
    rocky = (masks == 4).any(axis=(1, 2))
    once, often = (np.bincount(masks[those].ravel(), minlength=5) for those in (~rocky, rocky))
    np.testing.assert_array_equal(np.bincount(shown_masks.ravel(), minlength=5), once + 3 * often)
    assert weights == (1.0,) * 5 and ignore


# What steers it


class Played:
    """Trainings whose epochs are played: scores and losses are given, nothing is fit, all callbacks are the real ones.

    An epoch leaves its number in the network's last bias and in the optimizer's count of steps.
    """

    def __init__(self, folder, monkeypatch):
        self.folder, self.data = folder, numbered()
        self.scores: tuple[float, ...] = ()
        self.losses: tuple[float, ...] = ()
        self.rates: list[float] = []
        monkeypatch.setattr(keras.Model, "fit", lambda model, _, **settings: self._fit(model, **settings))
        monkeypatch.setattr(Validation, "scores", lambda validation: self._score(validation.model))

    def train(self, scores=(), losses=(), fold: int | None = 0, resume: bool = False, **settings) -> Metrics:
        """Plays an epoch for each score or loss and returns the metrics; `rates` are those after each epoch."""
        self.scores, self.losses, self.rates = scores, losses or (1.0,) * len(scores), []
        config = PLAIN.replace(**{"learning_rate": 1.0, "epochs": len(self.losses), **settings})
        return train(self.folder, self.data, config, fold, resume=resume)

    def best(self) -> int:
        """The epoch whose weights the run keeps."""
        run = runs.Run.open(self.folder / "fold")
        model = build_model(run.config, *SIZE)
        run.weights(model)
        return epoch_of(model)

    def _fit(self, model, initial_epoch, epochs, callbacks, **_):
        chain = keras.callbacks.CallbackList(callbacks, model=model)
        model.stop_training = False
        chain.on_train_begin()
        for epoch in range(initial_epoch, epochs):
            chain.on_epoch_begin(epoch)
            model.layers[-1].bias.assign(np.full(5, epoch + 1))
            model.optimizer.iterations.assign(epoch + 1)
            logs = {"loss": self.losses[epoch]}
            chain.on_train_batch_begin(0)
            chain.on_train_batch_end(0, logs)
            chain.on_epoch_end(epoch, logs)
            self.rates.append(round(float(model.optimizer.learning_rate), 6))
            if model.stop_training:
                break
        chain.on_train_end()

    def _score(self, model) -> dict:
        epoch = 0 if model is None else epoch_of(model)
        score = self.scores[epoch - 1] if epoch else 0.0
        matrix = np.zeros((5, 5), np.int64)
        matrix[[1, 2], [1, 2]], matrix[[1, 2], [2, 1]] = round(2e6 * score), round(1e6 * (1 - score))
        return scores(matrix)


def epoch_of(model) -> int:
    return round(float(np.asarray(model.layers[-1].bias)[0]))


@pytest.fixture
def played(tmp_path, monkeypatch):
    return Played(tmp_path, monkeypatch)


def test_the_rate_falls_when_the_score_stalls_and_not_while_it_rises(played):
    rising = 0.1, 0.2, 0.20001, 0.20002, 0.5  # by however little
    played.train((*rising, 0.5, 0.3, 0.4, 0.1), plateau_patience=2, plateau_factor=0.5)
    assert played.rates == [1.0] * 6 + [0.5, 0.5, 0.25]


def test_training_stops_when_the_score_stalls_and_not_while_it_rises(played):
    assert played.train((0.1, 0.2, 0.20001, 0.20002, 0.2, 0.1, 0.2, 0.9), patience=3).epochs == 7


def test_the_best_epoch_s_weights_are_kept_and_scored(played):
    metrics = played.train((0.2, 0.1, 0.6, 0.6, 0.5))
    assert (metrics.best_epoch, metrics.epochs, played.best()) == (3, 5, 3)
    assert metrics.mean_iou == pytest.approx(0.6)


def test_the_last_epoch_s_weights_are_kept_where_the_fold_is_to_choose_none(played):
    metrics = played.train((0.2, 0.6, 0.5), keep="last")
    assert (metrics.best_epoch, metrics.epochs, played.best()) == (3, 3, 3)
    assert metrics.mean_iou == pytest.approx(0.5)


def test_without_a_fold_the_loss_steers_and_nothing_stops(played):
    losses = 3.0, 2.0, 1.0, 1.0, 2.0, 2.0
    metrics = played.train(losses=losses, fold=None, plateau_patience=3, plateau_factor=0.5, patience=1)
    assert played.rates == [1.0] * 5 + [0.5]
    assert (metrics.epochs, metrics.best_epoch, played.best()) == (6, 6, 6)


def test_a_resumed_training_goes_on_with_rate_best_and_patience(played):
    settings = dict(plateau_patience=2, plateau_factor=0.5, patience=4)
    falling = 0.5, 0.4, 0.4
    played.train(falling, **settings)
    metrics = played.train((*falling, 0.45, 0.3, 0.6), resume=True, **settings)
    assert played.rates == [0.5, 0.25]  # as if never interrupted: epochs 4 and 5
    assert (metrics.epochs, metrics.best_epoch, played.best()) == (5, 1, 1)


def test_the_score_is_of_every_validation_tile():
    """By a network that answers each pixel by its grey value alone, on more tiles than fit a batch."""
    rng = np.random.default_rng(0)
    images, masks = rng.integers(0, 5, (2, 150, *SIZE)).astype(np.uint8)
    tiles = keras.Input(SIZE)
    layer = keras.layers.Dense(5)
    model = keras.Model(tiles, layer(keras.layers.Rescaling(1.0)(tiles[..., None])))
    # The logit of class k is 2 k g - k^2: largest where k = g
    layer.set_weights([2.0 * np.arange(5)[None], -(np.arange(5.0) ** 2)])
    for background in (False, True):
        answer = images if background else np.maximum(images, 1)
        expected = [[int(((masks == t) & (answer == a)).sum()) if t else 0 for a in range(5)] for t in range(5)]
        assert Validation(model, images, masks, background).scores()["confusion"] == expected


def test_the_constant_answer_is_the_training_fold_s_commonest_class():
    training, validation = np.array([0, 0, 0, 2, 2, 1]), np.array([1, 1, 2, 0])
    assert constant_score(training, validation) == pytest.approx((1 / 3 + 0) / 2)  # bedrock 1 of 3, soil none
