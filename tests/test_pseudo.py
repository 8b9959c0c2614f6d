"""Pseudo-labels: who may teach whom, what is sure, and that no label of a fold gets back to it through its teacher."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from systems import make_mosaic, make_system, pretend, write_tiles

from lib import runs
from lib.console import Console, UserError
from lib.data import load
from lib.probabilities import ValidationTiles
from lib.pseudo import UNSURE, find_teachers, keep_surest, pseudo_labels
from lib.runs import Run, Split

QUIET = Console(quiet=True)
LABELLED, TEST = 60, 12


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a data file and the runs of `best`, three folds."""
    pretend(monkeypatch)
    dataset = write_tiles(tmp_path / "tiles.npz", LABELLED, TEST)
    make_system(tmp_path / "runs" / "best", dataset, skill=2.0)
    return tmp_path


def student(place, fold=1, dataset=None, **changes) -> Run:
    """A run that `best` is to teach; not trained."""
    teacher = Run.open(place / "runs" / "best" / "fold_0")
    config = teacher.config.replace(experiment="taught", semi="pseudo", **changes)
    return Run(place / "runs" / "taught" / f"fold_{fold}", config, Split.of(dataset or read(place), config, fold))


def read(place):
    return load(str(place / "tiles.npz"), test=False)


def learnt(place, run, dataset=None, mosaic=None):
    """What the run's teacher says."""
    dataset = dataset or read(place)
    (teacher,) = find_teachers([run], place / "runs", dataset)
    return pseudo_labels(run, teacher, ValidationTiles(dataset, mosaic), str(place / "tiles.npz"), QUIET)


# Who teaches


def test_each_fold_is_taught_by_the_same_fold(place):
    students = [student(place, fold) for fold in (2, 0)]
    teachers = find_teachers(students, place / "runs", read(place))
    assert [teacher.folder.name for teacher in teachers] == ["fold_2", "fold_0"]
    for one, teacher in zip(students, teachers):
        assert not set(teacher.split.train) & set(one.split.validation)


def test_another_teacher_can_be_named(place):
    make_system(place / "runs" / "earlier", read(place))
    (teacher,) = find_teachers([student(place, teacher="earlier")], place / "runs", read(place))
    assert teacher.folder.parent.name == "earlier"


def test_a_missing_teacher_is_named(place):
    with pytest.raises(UserError, match="other/fold_1: no teacher there; train other on fold 1 first"):
        find_teachers([student(place, teacher="other")], place / "runs", read(place))
    with pytest.raises(UserError, match="best/fold_none: no teacher there; train best on fold none first"):
        find_teachers([student(place, fold=None)], place / "runs", read(place))


def test_a_teacher_must_have_ended(place):
    (place / "runs" / "best" / "fold_1" / runs.METRICS).unlink()
    with pytest.raises(UserError, match="best/fold_1: training has not ended"):
        find_teachers([student(place)], place / "runs", read(place))


def test_a_teacher_of_other_data_is_refused(place):
    write_tiles(place / "tiles.npz", seed=1)
    with pytest.raises(UserError, match="best/fold_1: trained on other data"):
        find_teachers([student(place)], place / "runs", read(place))


@pytest.mark.parametrize("changes", [dict(fold_seed=1), dict(folds=4)])
def test_a_teacher_that_has_seen_the_fold_is_refused(place, changes):
    with pytest.raises(UserError, match="best/fold_1: holds back other tiles than .*taught/fold_1, whose labels would"):
        find_teachers([student(place, **changes)], place / "runs", read(place))


# What it says


def test_validation_and_test_tiles_are_labelled(place):
    dataset, run = read(place), student(place, sure=1.0)
    found = learnt(place, run)
    assert found.tiles.tolist() == [*sorted(run.split.validation), *range(LABELLED, LABELLED + TEST)]
    test = np.load(place / "tiles.npz")["test_set"]
    np.testing.assert_array_equal(found.images, [*dataset.images[np.sort(run.split.validation)], *test])
    assert found.masks.shape == found.images.shape and found.masks.dtype == found.images.dtype == np.uint8
    assert set(np.unique(found.masks)) == {1, 2, 3, 4}  # nothing unsure
    truth = found.images // 40
    assert 0.6 < (found.masks == truth)[truth > 0].mean() < 0.95  # a pretended network of some skill
    assert found.teacher == runs.sha256(place / "runs" / "best" / "fold_1" / runs.WEIGHTS)


def test_without_a_validation_fold_the_test_tiles_alone_are_labelled(place):
    make_system(place / "runs" / "best", read(place), folds=(None,))
    assert learnt(place, student(place, fold=None)).tiles.tolist() == [*range(LABELLED, LABELLED + TEST)]


def test_the_surest_share_of_each_class_is_kept(place):
    everything, half = (learnt(place, student(place, sure=sure)).masks for sure in (1.0, 0.5))
    assert set(np.unique(half)) == {UNSURE, 1, 2, 3, 4}
    np.testing.assert_array_equal(half[half > 0], everything[half > 0])
    for label in range(1, 5):
        assert 0.5 <= (half == label).sum() / (everything == label).sum() < 0.55
    truth = learnt(place, student(place)).images // 40
    right = [(masks == truth)[(masks > 0) & (truth > 0)].mean() for masks in (everything, half)]
    assert right[1] > right[0] + 0.05  # the surest are oftener right


def test_a_share_counts_class_by_class_and_ties_stay():
    masks = np.array([[[1, 1, 1, 1, 2, 2, 2, 4]]], np.uint8)
    doubts = np.array([[[9, 0, 3, 1, 7, 7, 8, 200]]], np.uint8)
    expected = {0.5: [0, 1, 0, 1, 2, 2, 0, 4], 0.25: [0, 1, 0, 0, 2, 2, 0, 4], 1.0: masks.ravel().tolist()}
    for share, kept in expected.items():
        changed = masks.copy()
        keep_surest(changed, doubts, share)
        assert changed.ravel().tolist() == kept


def test_neighbours_labels_count_where_the_config_says_so(place):
    """All tiles in one frame, each labelled one a single class; the teacher hardly knows anything."""
    make_system(place / "runs" / "best", read(place), skill=0.1)
    dataset = read(place)
    dataset.masks[:] = 1 + np.arange(LABELLED)[:, None, None] // 30  # soil, then bedrock
    mosaic = make_mosaic([(tile // 12, tile % 12 // 3, tile % 3) for tile in range(LABELLED + TEST)])
    alone, heeded = (
        learnt(place, student(place, neighbours=neighbours, sure=1.0), dataset, mosaic)
        for neighbours in ("off", "labels")
    )
    held = heeded.tiles < LABELLED
    truth = dataset.masks[heeded.tiles[held]]
    assert (heeded.masks[held] == truth).mean() > 0.2 + (alone.masks[held] == truth).mean()


def test_nonsense_in_a_fold_s_labels_changes_none_of_its_pseudo_labels(place):
    """Neither as a teacher's own labels, nor as a neighbour's."""
    mosaic = make_mosaic([(tile // 12, tile % 12 // 3, tile % 3) for tile in range(LABELLED + TEST)])
    dataset = read(place)
    run = student(place, dataset=dataset, neighbours="labels")
    before = learnt(place, run, dataset, mosaic)
    dataset.masks[run.split.validation] = 1 + (dataset.masks[run.split.validation] + 1) % 4
    after = learnt(place, run, dataset, mosaic)
    np.testing.assert_array_equal(before.masks, after.masks)
    dataset.masks[run.split.train] = 1 + (dataset.masks[run.split.train] + 1) % 4
    assert (learnt(place, run, dataset, mosaic).masks != before.masks).mean() > 0.02  # others do count


# What is learnt


def test_a_training_wants_what_its_config_says():
    from lib.training import train_fold

    for semi, given in (("pseudo", None), ("none", SimpleNamespace(tiles=[]))):
        run = SimpleNamespace(config=SimpleNamespace(semi=semi), split=None)
        with pytest.raises(ValueError, match=f"semi={semi}"):
            train_fold(run, None, QUIET, unlabelled=given)


def test_a_student_learns_goes_on_and_is_refused_another_teacher(tmp_path, monkeypatch):
    """Interrupted after the first of two epochs; the second learns the same from the same, and nothing from others."""
    from test_training import QUIET, assert_same_run, tiny_config, tiny_data

    from lib.pseudo import Unlabelled
    from lib.training import train_fold

    data = tiny_data()
    config = tiny_config(experiment="taught", semi="pseudo", epochs=2, copy_paste=0.0, depth=1, dspp_rates=())
    split = Split.of(data, config, 0)
    others = tiny_data(seed=5)
    numbers = np.arange(24, 48)

    def train(folder, epochs, teacher="a"):
        run = runs.prepare(folder, config.replace(epochs=epochs), split, True)
        given = Unlabelled(numbers, others.images, others.masks, teacher)
        return train_fold(run, data, QUIET, unlabelled=given)

    metrics = train(tmp_path / "straight", 2)
    assert metrics.teacher == json.loads((tmp_path / "straight" / runs.METRICS).read_text())["teacher"] == "a"
    train(tmp_path / "again", 1)
    with pytest.raises(UserError, match="state.npz: was taught by other weights than its teacher has now; delete"):
        train(tmp_path / "again", 2, teacher="b")
    train(tmp_path / "again", 2)
    assert_same_run(tmp_path / "straight", tmp_path / "again")
