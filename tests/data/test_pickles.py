import os
import pickle
import struct

import numpy as np
import pytest
from archive_files import cifar_python
from conftest import random_images
from hypothesis import given, settings
from hypothesis import strategies as st

from kerascnn.data.pickles import Call, cifar_batch, value

IMAGES = random_images(3, (32, 32, 3))
LABELS = np.array([9, 0, 4], np.uint8)
BATCH = cifar_python(IMAGES, LABELS)


def test_the_hand_written_batch_is_one_for_pickle_too():
    batch = pickle.loads(BATCH, encoding="bytes")
    planes = IMAGES.transpose(0, 3, 1, 2).reshape(3, 3072)
    np.testing.assert_array_equal(batch[b"data"], planes)
    assert batch[b"labels"] == LABELS.tolist()


def assert_is_the_batch(content):
    images, labels = cifar_batch(content)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    assert images.dtype == labels.dtype == np.uint8


def test_a_batch_of_python_2():
    assert_is_the_batch(BATCH)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_a_batch_saved_anew(protocol):
    batch = pickle.loads(BATCH, encoding="bytes")
    assert_is_the_batch(pickle.dumps(batch, protocol))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_values_are_pickles_own(protocol):
    written = {
        "a": [1, -7, 300, 70_000, -(2**31), 2**40],
        "b": (
            None,
            True,
            False,
            (),
            ("x",),
            ("x", "y"),
            ("x", "y", "z"),
            tuple("wxyz"),
        ),
        "c": {"d": ["long" * 100, b"bytes".decode()], "e": []},
    }
    written["f"] = written["a"]  # from the memo
    assert value(pickle.dumps(written, protocol)) == written


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_nothing_of_the_file_runs(protocol, tmp_path):
    trace = tmp_path / "trace"
    evil = Evil(os.mkdir, str(trace))
    content = pickle.dumps({"labels": evil, "data": evil}, protocol)
    with pytest.raises(ValueError, match=r"\w"):
        cifar_batch(content)
    call = value(pickle.dumps(evil, protocol))
    assert call == Call(f"{os.mkdir.__module__} mkdir", (str(trace),))
    assert not trace.exists()
    pickle.loads(content)
    assert trace.exists()  # the file would have done it


def replaced(old, new):
    assert BATCH.count(old) == 1
    return BATCH.replace(old, new)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        BATCH[:-1],
        BATCH[:200],
        b"no pickle at all",
        pickle.dumps([1, 2], 2),
        pickle.dumps({"labels": [1]}, 2),
        pickle.dumps({"labels": [1], "data": "text"}, 2),
        pickle.dumps({"labels": [300], "data": IMAGES[:1].reshape(1, 3072)}, 4),
        pickle.dumps({"labels": ["a"], "data": IMAGES[:1].reshape(1, 3072)}, 4),
        pickle.dumps({"labels": [1, 2], "data": IMAGES[:1].reshape(1, 3072)}, 4),
        pickle.dumps({"labels": [1], "data": IMAGES[:1]}, 4),
        pickle.dumps({"labels": [1], "data": np.zeros((1, 3072), np.float32)}, 4),
        pickle.dumps(
            {"labels": [1, 2, 3], "data": np.asfortranarray(IMAGES.reshape(3, 3072))}, 4
        ),
        pickle.dumps({(1, 2): [1]}, 2),
        replaced(b"numpy.core.multiarray", b"another.core.multiarra"),
        replaced(b"M\x00\x0c\x86", b"M\x01\x0c\x86"),
        replaced(b"J" + struct.pack("<i", 3), b"J" + struct.pack("<i", 10**9)),
        b"\x80\x02h\x05.",
        b"\x80\x02r\xff\xff\xff\xff.",
        b"\x80\x02(t(e.",
    ],
)
def test_anything_else_is_a_value_error(content):
    with pytest.raises(ValueError, match=r"\w"):
        cifar_batch(content)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_a_value_error_or_still_a_batch(place, byte):
    # The first bytes hold the labels and the array's head, where opcodes are many.
    content = bytearray(BATCH)
    content[place % len(content)] = byte
    try:
        images, labels = cifar_batch(bytes(content))
    except ValueError:
        return
    assert images.shape == (len(labels), 32, 32, 3)
