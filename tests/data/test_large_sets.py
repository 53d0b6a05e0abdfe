"""Sets that memory is not to hold: read as a stream, in memory that does not grow."""

import io
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import psutil
import pytest
from PIL import Image
from synthetic_sets import POOL, array_record, encoded, jpegs

from kerascnn import data
from kerascnn.data.streamed import StreamedSplit
from kerascnn.training import checkpoint

pytest.importorskip("grain")
pytest.importorskip("array_record")

# Of the slow test; the disk must hold it.
GIGABYTES = float(os.environ.get("KERASCNN_TEST_GIGABYTES", "10"))
MOST = 2e9  # bytes


def test_a_prepared_set_of_several_files_is_read_in_any_order(tmp_path):
    place = array_record(tmp_path, 2e6, tested=30)
    loaded = data.load("synthetic", data_dir=tmp_path, stream=True)
    assert (len(loaded.test), loaded.shape) == (30, (32, 32, 3))
    assert 1.8e6 < sum(f.stat().st_size for f in place.iterdir()) < 4e6
    decoded = [np.asarray(Image.open(io.BytesIO(e))) for e in encoded(32, "PNG")]
    # Examples in the order of the files: of file after file, one after the other.
    number = len(loaded.train)
    lengths = [len(range(shard, number, 16)) for shard in range(16)]
    rows = [
        (n * 7 + s) % POOL for s, length in enumerate(lengths) for n in range(length)
    ]
    chosen = np.random.default_rng(1).permutation(number)[:50]
    images, labels = loaded.train.batch(chosen)
    for place, image, label in zip(chosen, images, labels, strict=True):
        np.testing.assert_array_equal(image, decoded[rows[place]])
        assert label == rows[place] % 10
    np.testing.assert_array_equal(loaded.train.labels[chosen], labels)


def test_images_of_unequal_size_come_at_one(tmp_path):
    place = jpegs(tmp_path, 1e6)
    form = {"image_size": (48, 48), "channels": 3, "exact": True}
    memory, stream = (data.load(str(place), **form, stream=s) for s in (False, True))
    assert isinstance(stream.train, StreamedSplit)
    for role in ("train", "test"):
        one, other = getattr(memory, role), getattr(stream, role)
        np.testing.assert_array_equal(other.images[:], one.images)


def resident(process):
    """Bytes that a process and those it started hold, what they share counted once."""
    held = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            full = each.memory_full_info()
            held += getattr(full, "pss", full.rss)  # the former on Linux alone
        except psutil.NoSuchProcess:
            continue
    return held


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="streams are JAX's")
@pytest.mark.parametrize("recipe", ["cifar_vgg_aug"])
def test_memory_does_not_grow_with_the_set(tmp_path, recipe):
    size = array_record(tmp_path, GIGABYTES * 1e9)
    assert sum(f.stat().st_size for f in size.iterdir()) > GIGABYTES * 1e9
    words = ["run", recipe, "--dataset", "synthetic", "--data-dir", str(tmp_path)]
    words += ["--engine", "stream", "--workers", "2", "--checkpoint-minutes", "0.5"]
    out = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-m", "kerascnn", *words, "--out", str(out)]
    ) as child:
        process, most, start = psutil.Process(child.pid), 0, None
        began = time.monotonic()
        while child.poll() is None and time.monotonic() - began < 3000:
            most = max(most, resident(process))
            start = checkpoint.newest(out, print) if out.is_dir() else None
            if start and start.step >= 100:
                break
            time.sleep(0.5)
        workers = process.children(recursive=True)
        child.send_signal(signal.SIGINT)
        child.wait(120)
    assert start
    assert start.step >= 100
    print(f"{GIGABYTES} GB: {most / 1e9:.2f} GB resident after {start.step} steps")
    assert most < MOST
    _, alive = psutil.wait_procs(workers, 30)
    assert not alive
