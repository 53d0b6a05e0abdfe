"""What a model gets right and wrong: numbers from its probabilities, NumPy alone."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import scipy.special
import scipy.stats

# As many bins of equal width as Guo et al. (2017) take for the calibration error.
BINS = 15


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """Images, their labels, and what a model says of them.

    Args:
        images: uint8, `(n, height, width, channels)`.
        labels: Whole numbers, `(n,)`, indices into `classes`.
        probabilities: `(n, classes)`, each row of sum 1.
        classes: Their names, in the order of the probabilities.
    """

    images: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """The likeliest class of each image, `(n,)`."""
        return self.probabilities.argmax(-1)

    @functools.cached_property
    def confidence(self) -> np.ndarray:
        """The probability of the likeliest class, `(n,)`."""
        return self.probabilities.max(-1)

    @functools.cached_property
    def of_truth(self) -> np.ndarray:
        """The probability of the true class, `(n,)`."""
        return self.probabilities[np.arange(len(self)), self.labels]

    @functools.cached_property
    def right(self) -> np.ndarray:
        """Whether the likeliest class is the true one, bool `(n,)`."""
        return self.predicted == self.labels


@dataclasses.dataclass(frozen=True)
class Pair:
    """Images of one class that the model takes for another."""

    truth: int
    predicted: int
    count: int
    of: int  # images of the true class


@dataclasses.dataclass(frozen=True)
class ClassAccuracy:
    """How many images of a class are right, with the 95 % interval of the share."""

    index: int
    name: str
    right: int
    images: int
    low: float
    high: float

    @property
    def accuracy(self) -> float:
        """The share that is right; NaN of a class without images."""
        return self.right / self.images if self.images else float("nan")


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Confidence beside accuracy, bin by bin.

    Args:
        counts: Images in each bin of confidence, `(BINS,)`; a bin holds its upper edge.
        confidence: Their mean confidence; NaN in an empty bin.
        accuracy: The share of them that is right; NaN in an empty bin.
        error: The expected calibration error: the gaps between the two, weighted by
            the bins' shares of the images.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, float64, of logits `(n, classes)`."""
    return scipy.special.softmax(logits.astype("float64"), axis=-1)


def wilson(right: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927); 0 to 1 of no images."""
    if images == 0:
        return 0.0, 1.0
    z, share = float(scipy.stats.norm.ppf(0.975)), right / images
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    spread = share * (1 - share) / images + z**2 / (4 * images**2)
    half = z * spread**0.5 / (1 + z**2 / images)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def confusion(outcome: Outcome) -> np.ndarray:
    """Count the images by true class (rows) and predicted class (columns)."""
    n = len(outcome.classes)
    cells = outcome.labels.astype("int64") * n + outcome.predicted
    return np.bincount(cells, minlength=n * n).reshape(n, n)


def pairs(matrix: np.ndarray, most: int = 10) -> list[Pair]:
    """Return the pairs of classes that are confused most often, in one direction."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    found = []
    for truth, predicted in zip(*np.unravel_index(order, matrix.shape), strict=True):
        count, of = int(wrong[truth, predicted]), int(matrix[truth].sum())
        if count:
            found.append(Pair(int(truth), int(predicted), count, of))
    return found


def per_class(outcome: Outcome, matrix: np.ndarray) -> list[ClassAccuracy]:
    """Return each class's accuracy, the lowest first; classes without images last."""
    found = []
    for index, name in enumerate(outcome.classes):
        right, images = int(matrix[index, index]), int(matrix[index].sum())
        low, high = wilson(right, images)
        found.append(ClassAccuracy(index, name, right, images, low, high))
    return sorted(found, key=lambda each: (not each.images, each.accuracy))


def mistakes(outcome: Outcome, most: int) -> np.ndarray:
    """Return the indices of the mistakes whose true class has the least probability."""
    wrong = np.flatnonzero(~outcome.right)
    return wrong[np.argsort(outcome.of_truth[wrong], kind="stable")][:most]


def surest(outcome: Outcome, most: int) -> np.ndarray:
    """Return the indices of the right images that the model is surest of, one a class.

    Classes take turns, so that the first of them show different things.
    """
    right = np.flatnonzero(outcome.right)
    right = right[np.argsort(-outcome.confidence[right], kind="stable")]
    turns, turn = np.zeros(len(outcome.classes), int), []
    for index in right:
        turn.append(turns[outcome.labels[index]])
        turns[outcome.labels[index]] += 1
    return right[np.argsort(turn, kind="stable")][:most] if turn else right


def members(outcome: Outcome, truth: int, predicted: int, most: int) -> np.ndarray:
    """Return the indices of a confusion cell's most telling images.

    Of mistakes those that the model is surest of, of right images the least sure ones.
    """
    cell = np.flatnonzero((outcome.labels == truth) & (outcome.predicted == predicted))
    sign = 1 if truth == predicted else -1
    return cell[np.argsort(sign * outcome.confidence[cell], kind="stable")][:most]


def calibration(outcome: Outcome, bins: int = BINS) -> Calibration:
    """Compare confidence and accuracy in bins of equal width."""
    at = np.ceil(outcome.confidence * bins).astype(int).clip(1, bins) - 1
    counts = np.bincount(at, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(at, outcome.confidence, bins) / counts
        accuracy = np.bincount(at, outcome.right, bins) / counts
    gaps = np.nan_to_num(abs(confidence - accuracy)) * counts
    return Calibration(counts, confidence, accuracy, float(gaps.sum() / len(outcome)))
