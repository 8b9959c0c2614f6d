"""The score on hand-made matrices, and against Keras's own MeanIoU with the organisers' recipe."""

import numpy as np
import pytest

from lib.metrics import class_iou, confusion_matrix, mean_iou, scores


def test_confusion_counts_pairs_and_leaves_true_background_out():
    truth = np.array([[0, 1, 1], [2, 2, 4]])
    answer = np.array([[3, 1, 2], [2, 2, 1]])
    matrix = confusion_matrix(truth, answer)
    assert matrix.dtype == np.int64
    expected = np.zeros((5, 5), int)
    expected[1, 1], expected[1, 2], expected[2, 2], expected[4, 1] = 1, 1, 2, 1
    np.testing.assert_array_equal(matrix, expected)


def test_iou_by_hand():
    matrix = confusion_matrix(np.array([1, 1, 2, 2, 4]), np.array([1, 2, 2, 2, 1]))
    np.testing.assert_allclose(class_iou(matrix), [np.nan, 1 / 3, 2 / 3, np.nan, 0])
    assert mean_iou(matrix) == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)


def test_one_scored_pixel_called_background_divides_by_one_more_class():
    truth = np.repeat([1, 2, 3, 4], 1000)
    perfect = truth.copy()
    assert mean_iou(confusion_matrix(truth, perfect)) == 1
    perfect[0] = 0
    assert mean_iou(confusion_matrix(truth, perfect)) == pytest.approx(0.8, abs=1e-3)


def test_an_answer_on_true_background_costs_nothing():
    truth = np.array([0, 0, 1])
    assert mean_iou(confusion_matrix(truth, np.array([4, 2, 1]))) == 1


def test_nothing_labelled_scores_zero():
    assert mean_iou(confusion_matrix(np.zeros(4, int), np.ones(4, int))) == 0


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        confusion_matrix(np.zeros((2, 3), int), np.zeros(6, int))


def test_counts_beyond_float32_stay_exact():
    matrix = np.zeros((5, 5), np.int64)
    matrix[1, 1], matrix[1, 2] = 2**24 + 1, 1
    assert scores(matrix)["confusion"][1][1] == 2**24 + 1


def test_scores_name_classes_and_mark_the_undefined():
    result = scores(confusion_matrix(np.array([1, 2]), np.array([1, 2])))
    assert result["iou"] == {"background": None, "soil": 1.0, "bedrock": 1.0, "sand": None, "big rock": None}


def test_equals_the_organisers_metric():
    import keras

    rng = np.random.default_rng(0)
    truth, answer = rng.integers(0, 5, (2, 4, 16, 16))
    metric = keras.metrics.MeanIoU(5)
    scored = truth != 0
    metric.update_state(truth[scored], answer[scored])
    assert mean_iou(confusion_matrix(truth, answer)) == pytest.approx(float(metric.result()), abs=1e-6)
