"""The page's numbers are those that loops, SciPy and scikit-learn find."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from kerascnn.page import findings
from kerascnn.page.findings import Outcome

CLASSES = ("cat", "dog", "frog", "ship")


def outcome(seed, n=200, classes=CLASSES, sharp=3.0):
    random = np.random.default_rng(seed)
    logits = sharp * random.normal(size=(n, len(classes)))
    labels = np.where(
        random.random(n) < 0.6, logits.argmax(-1), random.integers(len(classes), size=n)
    )
    images = random.integers(256, size=(n, 4, 4, 1), dtype="uint8")
    return Outcome(images, labels, findings.softmax(logits), classes)


@pytest.mark.parametrize("seed", range(4))
def test_the_confusion_matrix_counts(seed):
    found = outcome(seed)
    expected = np.zeros((4, 4), int)
    for truth, row in zip(found.labels, found.probabilities, strict=True):
        expected[truth, max(range(4), key=lambda c: row[c])] += 1
    matrix = findings.confusion(found)
    np.testing.assert_array_equal(matrix, expected)
    for pair, next_pair in zip(
        findings.pairs(matrix, 12)[:-1], findings.pairs(matrix, 12)[1:], strict=True
    ):
        assert pair.count >= next_pair.count
    counts = {(p.truth, p.predicted): p.count for p in findings.pairs(matrix, 99)}
    assert counts == {
        (t, p): expected[t, p]
        for t in range(4)
        for p in range(4)
        if t != p and expected[t, p]
    }


@given(st.integers(1, 20000), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_intervals_are_scipy_s(images, share):
    right = round(share * images)
    expected = scipy.stats.binomtest(right, images).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(
        findings.wilson(right, images), [expected.low, expected.high], atol=1e-12
    )


def test_a_class_without_images_has_no_accuracy():
    found = Outcome(
        np.zeros((1, 2, 2, 1), "uint8"),
        np.array([0]),
        np.array([[0.9, 0.1]]),
        ("a", "b"),
    )
    first, last = findings.per_class(found, findings.confusion(found))
    assert (first.name, first.accuracy, last.name) == ("a", 1.0, "b")
    assert math.isnan(last.accuracy)
    assert (last.low, last.high) == (0, 1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bins", [10, 15])
def test_the_calibration_error_is_the_weighted_gap(seed, bins):
    found = outcome(seed, sharp=1 + seed)
    error = 0.0
    for at in range(bins):
        low, high = at / bins, (at + 1) / bins
        inside = [
            i for i in range(len(found)) if low < found.probabilities[i].max() <= high
        ]
        if inside:
            sure = sum(found.probabilities[i].max() for i in inside) / len(inside)
            right = sum(
                found.probabilities[i].argmax() == found.labels[i] for i in inside
            ) / len(inside)
            error += len(inside) / len(found) * abs(sure - right)
    calibration = findings.calibration(found, bins)
    assert calibration.error == pytest.approx(error, abs=1e-12)
    assert calibration.counts.sum() == len(found)


def test_scikit_learn_finds_the_same():
    metrics = pytest.importorskip("sklearn.metrics")
    curve = pytest.importorskip("sklearn.calibration").calibration_curve
    found = outcome(5, 1000)
    expected = metrics.confusion_matrix(found.labels, found.predicted)
    np.testing.assert_array_equal(findings.confusion(found), expected)
    accuracy, confidence = curve(found.right, found.confidence, n_bins=15)
    calibration = findings.calibration(found)
    filled = calibration.counts > 0
    np.testing.assert_allclose(calibration.accuracy[filled], accuracy)
    np.testing.assert_allclose(calibration.confidence[filled], confidence)


def test_mistakes_are_wrong_and_the_worst_first():
    found = outcome(1)
    index = findings.mistakes(found, 30)
    assert not found.right[index].any()
    assert (np.diff(found.of_truth[index]) >= 0).all()
    left = set(np.flatnonzero(~found.right)) - set(index)
    assert all(found.of_truth[i] >= found.of_truth[index[-1]] for i in left)


def test_the_surest_images_are_right_and_of_different_classes():
    found = outcome(2)
    index = findings.surest(found, 4)
    assert found.right[index].all()
    assert len(set(found.labels[index])) == 4
    for i in index:
        same = found.right & (found.labels == found.labels[i])
        assert found.confidence[i] == found.confidence[same].max()


@given(st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=16, deadline=None)
def test_a_cell_s_images_belong_to_it(truth, predicted):
    found = outcome(3)
    index = findings.members(found, truth, predicted, 5)
    assert (found.labels[index] == truth).all()
    assert (found.predicted[index] == predicted).all()
    order = np.diff(found.confidence[index])
    assert (order >= 0).all() if truth == predicted else (order <= 0).all()


def test_large_logits_have_probabilities():
    found = findings.softmax(np.array([[1e4, 0.0], [-1e4, -1e4]], "float32"))
    np.testing.assert_array_equal(found, [[1, 0], [0.5, 0.5]])
