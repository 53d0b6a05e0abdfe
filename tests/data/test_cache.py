import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kerascnn import data
from kerascnn.data import arrays
from kerascnn.data.cache import cache_directory

FILES = [
    "record.json",
    "train_images.npy",
    "train_labels.npy",
    "test_images.npy",
    "test_labels.npy",
]


@pytest.fixture
def load(tiny, tmp_path):
    tiny()
    return lambda: data.load(
        "tiny", data_dir=tmp_path / "data", cache_dir=tmp_path / "cache"
    )


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    # A new file: the old one is mapped into this process's arrays.
    file.unlink()
    file.write_bytes(content)


def test_the_second_load_decodes_nothing(load, monkeypatch):
    first = load()
    monkeypatch.setattr("kerascnn.data.cache.read", None)
    second = load()
    assert first.hash == second.hash
    np.testing.assert_array_equal(first.train.images, second.train.images)
    assert first.classes == second.classes


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_and_mended(load, tmp_path, capsys, name, where):
    before = load()
    (file,) = (tmp_path / "cache").rglob(name)
    size = file.stat().st_size
    flip(file, {"first": 0, "middle": size // 2, "last": size - 1}[where])
    after = load()
    assert after.hash == before.hash
    assert after.classes == before.classes
    np.testing.assert_array_equal(after.train.images, before.train.images)
    (line,) = capsys.readouterr().err.splitlines()
    assert "damaged" in line
    assert "decoding again" in line
    load()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", FILES)
def test_a_short_or_missing_file_is_mended(load, tmp_path, name):
    before = load()
    (file,) = (tmp_path / "cache").rglob(name)
    content = file.read_bytes()
    for harm in (content[: len(content) // 2], b"", None):
        file.unlink()
        if harm is not None:
            file.write_bytes(harm)
        assert load().hash == before.hash
        assert file.read_bytes() == content


def test_changed_data_are_not_served_from_the_cache(tiny, tmp_path):
    import shutil

    def load():
        return data.load("tiny", data_dir=tmp_path / "data", cache_dir=tmp_path / "c")

    shutil.move(tiny(seed=0), tmp_path / "old")
    first = tiny(seed=1)
    before = load()
    shutil.rmtree(first)
    shutil.move(tmp_path / "old", first)
    after = load()
    assert before.hash != after.hash
    # What was decoded from the former files is gone.
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_the_hash_covers_images_labels_and_their_order(tmp_path, prepare):
    from conftest import png, random_images

    images = random_images(4)
    hashes = set()
    first = ([0, 1, 2], [0, 1, 0])
    other_label, other_image = ([0, 1, 2], [0, 0, 0]), ([0, 1, 3], [0, 1, 0])
    other_order = ([1, 0, 2], [1, 0, 0])
    for number, (chosen, labels) in enumerate(
        [first, other_label, other_image, other_order]
    ):
        rows = [
            {"image": png(images[index]), "label": label}
            for index, label in zip(chosen, labels, strict=True)
        ]
        prepare({"train": rows, "test": rows[:1]}, folder=tmp_path / str(number))
        hashes.add(data.load("tiny", data_dir=tmp_path / str(number)).hash)
    assert len(hashes) == 4


def unwritable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


def full_disk(tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    return tmp_path / "cache"


@pytest.mark.parametrize("trouble", [unwritable, full_disk])
def test_without_a_cache_the_data_are_decoded_into_memory(
    tiny, tmp_path, monkeypatch, capsys, trouble
):
    tiny()
    cached = data.load("tiny", data_dir=tmp_path / "data")
    capsys.readouterr()
    cache_dir = trouble(tmp_path, monkeypatch)
    loaded = data.load("tiny", data_dir=tmp_path / "data", cache_dir=cache_dir)
    assert loaded.hash == cached.hash
    np.testing.assert_array_equal(loaded.train.images, cached.train.images)
    np.testing.assert_array_equal(loaded.test.labels, cached.test.labels)
    assert loaded.train.images.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        loaded.train.images[0] = 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be written" in line
    assert not list((tmp_path / "cache").rglob("*"))


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_read_only_cache_folder(load, tmp_path):
    before = load()
    (tmp_path / "cache").chmod(0o500)
    try:
        assert load().hash == before.hash
    finally:
        (tmp_path / "cache").chmod(0o700)


def test_processes_that_start_at_once(tiny, tmp_path):
    tiny()
    code = """
import sys
from kerascnn import data
from kerascnn.data import arrays
loaded = data.load("tiny", data_dir=sys.argv[1], cache_dir=sys.argv[2])
print(loaded.hash, int(loaded.train.images.sum()))
"""
    command = [sys.executable, "-c", code, tmp_path / "data", tmp_path / "cache"]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len({out for out, _ in answers}) == 1
    assert {err for _, err in answers} == {b""}
    (place,) = (tmp_path / "cache").iterdir()
    assert sorted(each.name for each in place.iterdir()) == sorted(FILES)


def test_a_killed_process_leaves_no_cache_that_is_believed(load, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("kerascnn.data.cache.hash_of", stop)  # all but the record
        with pytest.raises(KeyboardInterrupt):
            load()
    assert not list((tmp_path / "cache").rglob("*"))
    load()
    (record,) = (tmp_path / "cache").rglob("record.json")
    record.unlink()
    remains = record.with_name(".train_images.npy.0123")
    remains.write_bytes(b"from a process that was killed an hour ago")
    os.utime(remains, (0, 0))
    assert len(load().train) == 40
    assert not remains.exists()


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.delenv("KERASCNN_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    places = {}
    for platform in ("linux", "darwin", "win32"):
        monkeypatch.setattr("sys.platform", platform)
        places[platform] = cache_directory().relative_to(tmp_path)
    assert places == {
        "linux": Path(".cache/kerascnn"),
        "darwin": Path("Library/Caches/kerascnn"),
        "win32": Path("Local/kerascnn"),
    }
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "kerascnn"
    monkeypatch.setenv("KERASCNN_CACHE_DIR", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    assert cache_directory("~/mine") == tmp_path / "mine"


def test_the_record_can_be_read_by_people(load, tmp_path):
    loaded = load()
    (file,) = (tmp_path / "cache").rglob("record.json")
    record = json.loads(file.read_text())
    assert record["name"] == "tiny"
    assert record["hash"] == loaded.hash


@pytest.mark.slow
@pytest.mark.full_data
def test_the_second_start_takes_less_than_a_second(full_data):
    full_data("cifar10")  # decodes it, if no earlier run has
    code = """
import time
import kerascnn.data
start = time.process_time()
kerascnn.data.load("cifar10", "full")
print(time.process_time() - start)
"""
    # The processor's time, not the clock's: the machine may be busy with others.
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True
    )
    assert float(answer.stdout) < 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux counts pages")
def test_what_was_read_of_an_array_in_a_file_is_given_back(tmp_path):
    def resident():
        with open("/proc/self/smaps", encoding="utf-8") as lines:
            text = lines.read()
        (part,) = (each for each in text.split("VmFlags") if str(tmp_path) in each)
        return int(re.search(r"Rss: +(\d+) kB", part[part.index(str(tmp_path)) :])[1])

    images = np.random.default_rng(0).integers(0, 256, (20_000, 8, 8, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    array = np.load(tmp_path / "images.npy", mmap_mode="r")[:15_000]
    assert array.sum(dtype="int64") == images[:15_000].sum(dtype="int64")
    assert resident() > 2_500
    arrays.give_back(array)
    assert resident() < 500
    np.testing.assert_array_equal(array, images[:15_000])
    arrays.give_back(images)  # in memory: nothing happens
