import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerascnn import UsageError, data
from kerascnn.data import Split

SEEDS = st.integers(0, 2**64 - 1)
MASK = 2**64 - 1


def philox_words(key, n):
    """Philox 4x64-10 in plain Python, from the paper's figure 2 and its constants.

    NumPy counts before it draws: the first block has counter 1.
    """
    words = []
    for counter in range(1, n // 4 + 2):
        block, (k0, k1) = [counter, 0, 0, 0], key
        for _ in range(10):
            p0, p1 = 0xD2E7470EE14C6C93 * block[0], 0xCA5A826395121157 * block[2]
            block = [
                (p1 >> 64) ^ block[1] ^ k0,
                p1 & MASK,
                (p0 >> 64) ^ block[3] ^ k1,
                p0 & MASK,
            ]
            k0 = (k0 + 0x9E3779B97F4A7C15) & MASK
            k1 = (k1 + 0xBB67AE8584CAA73B) & MASK
        words += block
    return words[:n]


@pytest.mark.parametrize(
    ("seed", "epoch", "n"), [(0, 0, 7), (1, 0, 64), (0, 1, 64), (2**64 - 1, 29, 101)]
)
def test_order_sorts_philox_words(seed, epoch, n):
    words = philox_words((seed, epoch), n)
    expected = sorted(range(n), key=lambda index: words[index])
    order = data.order(seed, epoch, n)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(order, expected)


@given(SEEDS, st.integers(0, 1000), st.integers(0, 300))
def test_order_is_a_permutation(seed, epoch, n):
    np.testing.assert_array_equal(np.sort(data.order(seed, epoch, n)), np.arange(n))


def test_orders_of_epochs_and_seeds_differ():
    orders = {
        tuple(data.order(seed, epoch, 50)) for seed in range(10) for epoch in range(10)
    }
    assert len(orders) == 100


def test_order_ignores_global_random_state():
    np.random.seed(1)  # noqa: NPY002 - the state in question
    first = data.order(3, 4, 1000)
    np.random.seed(2)  # noqa: NPY002
    np.testing.assert_array_equal(first, data.order(3, 4, 1000))


def test_order_is_the_same_in_another_process():
    code = "from kerascnn import data; print(*data.order(5, 6, 20))"
    words = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert list(map(int, words)) == data.order(5, 6, 20).tolist()


def test_every_example_comes_at_every_place():
    # 2,000 orders of 5 examples: each of the 25 counts is binomial with mean 400 and
    # standard deviation 17.9; five of them is 90.
    counts = np.zeros((5, 5), int)
    for epoch in range(2000):
        counts[np.arange(5), data.order(0, epoch, 5)] += 1
    assert np.abs(counts - 400).max() < 90


@pytest.mark.parametrize(("seed", "epoch"), [(-1, 0), (0, -1), (2**64, 0)])
def test_order_refuses_what_is_out_of_range(seed, epoch):
    with pytest.raises(UsageError, match=r"outside 0 \.\.\. 2\*\*64"):
        data.order(seed, epoch, 5)


def numbered(labels):
    """A split whose images are their own numbers."""
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Split(images, np.array(labels, np.int32))


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=20, max_size=200),
    st.floats(0.2, 0.8),
    SEEDS,
)
def test_split_is_balanced_and_loses_nothing(labels, fraction, seed):
    whole = numbered(labels)
    train, validation = data.split(whole, fraction, seed)
    for label in set(labels):
        expected = round(fraction * labels.count(label))
        assert np.count_nonzero(validation.labels == label) == expected
    both = np.concatenate([train.images.ravel(), validation.images.ravel()])
    np.testing.assert_array_equal(np.sort(both), np.arange(len(labels)))
    for part in (train, validation):
        numbers = part.images.ravel()
        np.testing.assert_array_equal(part.labels, whole.labels[numbers])
        assert np.all(np.diff(numbers.astype(int)) > 0)  # the original order


def test_split_follows_its_seed():
    whole = numbered([0, 1] * 50)
    first, second, other = (
        data.split(whole, 0.2, seed)[1].images.ravel().tolist() for seed in (1, 1, 2)
    )
    assert first == second != other
    assert first != list(range(20))


def test_split_is_read_only():
    train, validation = data.split(numbered([0, 1] * 10), 0.5, seed=0)
    for part in (train, validation):
        with pytest.raises(ValueError, match="read-only"):
            part.images[0] = 0


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, 0.001])
def test_split_refuses_an_empty_part(fraction):
    with pytest.raises(UsageError, match="a share of"):
        data.split(numbered([0, 1] * 10), fraction, seed=0)
