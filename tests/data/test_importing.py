import gzip
import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from archive_files import cifar_binary, cifar_python, idx, tar, write
from conftest import FULL

from kerascnn import UsageError, data
from kerascnn.data.archives import read_archive
from kerascnn.data.official import OFFICIAL, Official, content

TRAIN, TEST = 50, 20


def part(name):
    """The first images of each split of the bundled sample."""
    sample = data.load(name, "sample")
    return {
        "train": (sample.train.images[:TRAIN], sample.train.labels[:TRAIN]),
        "test": (sample.test.images[:TEST], sample.test.labels[:TEST]),
    }


def official(name, splits):
    """What an archive of these splits must hold."""
    true = OFFICIAL[name]
    return Official(
        title=true.title,
        shape=true.shape,
        classes=true.classes,
        counts={split: len(labels) for split, (_, labels) in splits.items()},
        contents={split: content(*arrays) for split, arrays in splits.items()},
    )


def cifar_files(splits, encode, ending=""):
    """{name: content} of the five training batches and the test batch."""
    images, labels = splits["train"]
    files = {
        f"data_batch_{number + 1}{ending}": encode(batch, batch_labels)
        for number, (batch, batch_labels) in enumerate(
            zip(np.split(images, 5), np.split(labels, 5), strict=True)
        )
    }
    files[f"test_batch{ending}"] = encode(*splits["test"])
    return files


def below(folder, files):
    return {f"{folder}/{name}": content for name, content in files.items()}


def binary(splits):
    files = cifar_files(splits, cifar_binary, ".bin")
    names = "\n".join(OFFICIAL["cifar10"].classes).encode() + b"\n\n"
    return below("cifar-10-batches-bin", files | {"batches.meta.txt": names})


def python(splits):
    files = cifar_files(splits, cifar_python)
    return below("cifar-10-batches-py", files | {"readme.html": b"<html>"})


def idx_files(splits):
    return {
        f"{prefix}-{kind}-ubyte": idx(array)
        for prefix, (images, labels) in (
            ("train", splits["train"]),
            ("t10k", splits["test"]),
        )
        for kind, array in (
            ("images-idx3", images[..., 0]),
            ("labels-idx1", labels.astype(np.uint8)),
        )
    }


def gz(files):
    return {f"{name}.gz": content for name, content in files.items()}


CIFAR_LAYOUTS = {
    "binary archive": lambda s: ({"cifar-10-binary.tar.gz.": tar(binary(s))}, "*."),
    "python archive": lambda s: ({"cifar-10-python.tar.gz.": tar(python(s))}, "*."),
    "plain tar": lambda s: ({"cifar.tar": tar(binary(s), "w")}, "cifar.tar"),
    "leading dot": lambda s: ({"c.tgz": tar(below(".", python(s)))}, "c.tgz"),
    "binary folder": lambda s: (binary(s), "cifar-10-batches-bin"),
    "python folder": lambda s: (python(s), "cifar-10-batches-py"),
    "one file of it": lambda s: (python(s), "cifar-10-batches-py/test_batch"),
    "torchvision's root": lambda s: (
        python(s) | {"MNIST/raw/t10k-labels-idx1-ubyte": b""},
        ".",
    ),
    "Keras 3's data sets": lambda s: (
        below("datasets/cifar-10-batches-py-target", python(s)),
        "datasets",
    ),
    "Keras 3's archive": lambda s: (
        {"datasets/cifar-10-batches-py-target_archive": tar(python(s))},
        "datasets",
    ),
    "Keras 2's data sets": lambda s: (below("datasets", python(s)), "."),
}

FASHION_LAYOUTS = {
    "torchvision's raw folder": lambda s: (
        below("FashionMNIST/raw", idx_files(s)),
        "FashionMNIST/raw",
    ),
    "torchvision's root, beside MNIST": lambda s: (
        below("MNIST/raw", idx_files({k: (i[::-1], y) for k, (i, y) in s.items()}))
        | below("FashionMNIST/raw", idx_files(s) | gz(idx_files(s))),
        ".",
    ),
    "Keras": lambda s: (below("datasets/fashion-mnist", gz(idx_files(s))), "datasets"),
    "Debian": lambda s: (
        below("usr/share/datasets/fashion-mnist", gz(idx_files(s))),
        "usr/share/datasets/fashion-mnist",
    ),
    "one of the four files": lambda s: (
        gz(idx_files(s)),
        "train-labels-idx1-ubyte.gz",
    ),
}

LAYOUTS = [("cifar10", layout) for layout in CIFAR_LAYOUTS] + [
    ("fashion_mnist", layout) for layout in FASHION_LAYOUTS
]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_layouts(name, layout, tmp_path):
    splits = part(name)
    files, path = (CIFAR_LAYOUTS | FASHION_LAYOUTS)[layout](splits)
    write(tmp_path, files)
    if path == "*.":
        # Written under a name that `write` does not compress again.
        (made,) = tmp_path.glob(path)
        made.rename(made.with_suffix(""))
        path = made.with_suffix("").name
    found = read_archive(name, tmp_path / path, official(name, splits))
    for split, (images, labels) in splits.items():
        np.testing.assert_array_equal(found[split][0], images)
        np.testing.assert_array_equal(found[split][1], labels)


@pytest.fixture
def cifar(tmp_path):
    """A small CIFAR-10: its splits, its archive and what it must hold."""
    splits = part("cifar10")
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(tar(binary(splits)))
    return splits, archive, official("cifar10", splits)


def test_import_prepares_the_set_as_tfds_would(cifar, tmp_path):
    import tensorflow_datasets as tfds

    splits, archive, true = cifar
    folder = data.import_archive("cifar10", archive, tmp_path / "data", true)
    assert folder == tmp_path / "data" / "cifar10" / "3.0.2"
    assert data.prepared("cifar10", tmp_path / "data") == folder
    assert [each.name for each in (tmp_path / "data").iterdir()] == ["cifar10"]
    assert [each.name for each in (tmp_path / "data/cifar10").iterdir()] == ["3.0.2"]

    builder = tfds.builder("cifar10", data_dir=str(tmp_path / "data"))
    assert builder.is_prepared()
    assert builder.info.features["label"].names == list(OFFICIAL["cifar10"].classes)
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info["moduleName"] == "tensorflow_datasets.image_classification.cifar"
    for split, count in (("train", TRAIN), ("test", TEST)):
        assert builder.info.splits[split].num_examples == count
        rows = list(builder.as_data_source(split))
        assert [int(row["id"].split(b"_")[1]) for row in rows] != list(range(count))
        for row in rows:
            prefix, index = row["id"].decode().split("_")
            assert prefix == split
            images, labels = splits[split]
            np.testing.assert_array_equal(row["image"], images[int(index)])
            assert row["label"] == labels[int(index)]
    loaded = data.load("cifar10", "full", tmp_path / "data")
    assert not loaded.sample


def test_both_archives_and_fashion_give_equal_sets(tmp_path):
    splits = part("cifar10")
    write(tmp_path, binary(splits) | python(splits))
    hashes = set()
    for folder in ("cifar-10-batches-bin", "cifar-10-batches-py"):
        true = official("cifar10", splits)
        data.import_archive("cifar10", tmp_path / folder, tmp_path / f"d{folder}", true)
        hashes.add(data.load("cifar10", "full", tmp_path / f"d{folder}").hash)
    assert len(hashes) == 1
    splits = part("fashion_mnist")
    write(tmp_path, gz(idx_files(splits)))
    true = official("fashion_mnist", splits)
    data.import_archive("fashion_mnist", tmp_path, tmp_path / "data", true)
    loaded = data.load("fashion_mnist", "full", tmp_path / "data")
    assert content(loaded.train.images, loaded.train.labels) == true.contents["train"]
    assert loaded.classes == OFFICIAL["fashion_mnist"].classes


def test_import_twice_does_nothing(cifar, tmp_path):
    _, archive, true = cifar
    folder = data.import_archive("cifar10", archive, tmp_path / "data", true)
    archive.unlink()
    before = {each.name: each.stat().st_mtime_ns for each in folder.iterdir()}
    assert data.import_archive("cifar10", archive, tmp_path / "data") == folder
    after = {each.name: each.stat().st_mtime_ns for each in folder.iterdir()}
    assert before == after


def refuse(name, path, tmp_path, true=None, match=r"\w"):
    """Check that an import is refused in one line and leaves nothing behind."""
    with pytest.raises(UsageError, match=match) as caught:
        data.import_archive(name, path, tmp_path / "data", true)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_an_archive_that_is_not_the_true_set(cifar, tmp_path):
    _, archive, _ = cifar
    refuse("cifar10", archive, tmp_path, match="found 50 train images.*50,000")


def test_a_changed_image_or_label(cifar, tmp_path):
    splits, archive, true = cifar
    for array in (0, 1):
        changed = {split: [each.copy() for each in splits[split]] for split in splits}
        changed["test"][array].flat[7] ^= 1
        archive.write_bytes(tar(binary(changed)))
        refuse("cifar10", archive, tmp_path, true, "test images or labels are not")


def test_a_missing_path(tmp_path):
    refuse("cifar10", tmp_path / "none", tmp_path, match="does not exist")


def test_a_folder_without_the_set(tmp_path):
    (tmp_path / "folder").mkdir()
    refuse("cifar10", tmp_path / "folder", tmp_path, match="found neither cifar-10-bin")
    refuse("fashion_mnist", tmp_path / "folder", tmp_path, match="four files train-im")


def test_a_missing_batch(cifar, tmp_path):
    splits, archive, true = cifar
    files = binary(splits)
    del files["cifar-10-batches-bin/data_batch_3.bin"]
    archive.write_bytes(tar(files))
    refuse("cifar10", archive, tmp_path, true, r"found no data_batch_3\.bin")


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_archive(cifar, tmp_path, share):
    _, archive, true = cifar
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(share * len(whole))])
    refuse("cifar10", archive, tmp_path, true)


def test_truncated_batches_and_idx_files(tmp_path):
    splits = part("cifar10")
    true = official("cifar10", splits)
    for number, files in enumerate((binary(splits), python(splits))):
        folder = write(tmp_path / str(number), files)
        (file,) = folder.rglob("data_batch_2*")
        for size in (file.stat().st_size - 5, 100, 0):
            os.truncate(file, size)
            refuse("cifar10", folder, tmp_path, true)
    splits = part("fashion_mnist")
    true = official("fashion_mnist", splits)
    for number, files in enumerate((idx_files(splits), gz(idx_files(splits)))):
        folder = write(tmp_path / f"f{number}", files)
        (file,) = folder.rglob("t10k-images*")
        for size in (file.stat().st_size - 5, 100, 0):
            os.truncate(file, size)
            refuse("fashion_mnist", folder, tmp_path, true, "truncated, damaged")


@pytest.mark.parametrize(
    "foreign",
    [
        b"",
        b"plain text, no archive",
        b"PK\x03\x04 a zip file" * 100,
        gzip.compress(b"compressed text" * 100),
        tar({"other/file.txt": b"text"}),
        tar({"cifar-100-python/train": b"text"}),
        tar({"data_batch_1.bin": b"in no folder"}),
        np.random.default_rng(0).bytes(5000),
    ],
    ids=["empty", "text", "zip", "gzip", "tar", "cifar100", "no folder", "noise"],
)
def test_a_foreign_file(foreign, tmp_path):
    (tmp_path / "file.tar.gz").write_bytes(foreign)
    refuse("cifar10", tmp_path / "file.tar.gz", tmp_path)
    refuse("fashion_mnist", tmp_path / "file.tar.gz", tmp_path)


def test_mnist_is_not_fashion_mnist(tmp_path):
    splits = part("fashion_mnist")
    true = official("fashion_mnist", splits)
    other = {
        split: (images[::-1], labels) for split, (images, labels) in splits.items()
    }
    write(tmp_path / "MNIST/raw", idx_files(other))
    refuse(
        "fashion_mnist", tmp_path / "MNIST", tmp_path, true, "not those of Fashion-M"
    )


@pytest.mark.parametrize(
    "name", ["../../escaped", "/tmp/escaped", "cifar-10-batches-bin/../../../escaped"]
)
def test_members_that_point_outside(cifar, tmp_path, name):
    splits, archive, true = cifar
    archive.write_bytes(tar({name: b"evil"} | binary(splits)))
    refuse("cifar10", archive, tmp_path, true, "points outside of it")
    assert not list(tmp_path.parent.glob("**/escaped"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_members_that_are_no_files(cifar, tmp_path, kind):
    _, archive, true = cifar
    with tarfile.open(archive, "w:gz") as made:
        member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        member.type, member.linkname = kind, "/etc/hostname"
        made.addfile(member)
    refuse("cifar10", archive, tmp_path, true, "no plain file")


def bomb(kind):
    """A small file that unfolds to 2 GB, in one of the places where it could."""
    size = 2**31
    member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    if kind == "other member":
        member.name = "cifar-10-batches-bin/film.mp4"
    member.size = size
    if kind == "long name":
        member.name, member.type = "././@LongLink", tarfile.GNUTYPE_LONGNAME
    head = b"" if kind == "no tar" else member.tobuf(tarfile.GNU_FORMAT)
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as stream:
        stream.write(head)
        for _ in range(64):  # 64 MB are more than is ever read of a small set
            stream.write(bytes(2**20))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["member", "other member", "long name", "no tar"])
def test_bombs(cifar, tmp_path, kind):
    _, archive, true = cifar
    archive.write_bytes(bomb(kind))
    refuse("cifar10", archive, tmp_path, true)


def test_a_sparse_member_that_claims_gigabytes(cifar, tmp_path):
    _, archive, true = cifar
    member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    member.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**40)}
    with tarfile.open(archive, "w:gz", format=tarfile.PAX_FORMAT) as made:
        made.addfile(member)
    refuse("cifar10", archive, tmp_path, true, "no plain file")


def test_an_idx_bomb(tmp_path):
    splits = part("fashion_mnist")
    true = official("fashion_mnist", splits)
    files = idx_files(splits)
    files["train-images-idx3-ubyte"] += bytes(2**26)
    write(tmp_path, gz(files))
    refuse("fashion_mnist", tmp_path, tmp_path, true, "unfolds to more")


def test_a_pickle_that_would_run_code(cifar, tmp_path):
    splits, archive, true = cifar
    trace = tmp_path / "trace"
    evil = b"\x80\x02cos\nmkdir\nX%c\x00\x00\x00%b\x85R." % (
        len(str(trace)),
        str(trace).encode(),
    )
    files = python(splits)
    files["cifar-10-batches-py/data_batch_1"] = evil
    archive.write_bytes(tar(files))
    refuse("cifar10", archive, tmp_path, true, "cannot be read as CIFAR-10")
    assert not trace.exists()


def test_only_the_two_sets_can_be_imported(tmp_path):
    refuse("mnist", tmp_path, tmp_path, match="only one of cifar10 or fashion_mnist")
    refuse("cifar11", tmp_path, tmp_path, match="did you mean cifar10")


def test_a_folder_that_cannot_be_written(cifar, tmp_path):
    _, archive, true = cifar
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written.*--data-dir"):
        data.import_archive("cifar10", archive, tmp_path / "file" / "data", true)


def test_an_interrupted_import_leaves_no_set(cifar, tmp_path, monkeypatch):
    _, archive, true = cifar

    def stop(image):
        raise KeyboardInterrupt

    monkeypatch.setattr("kerascnn.data.writing._png", stop)
    with pytest.raises(KeyboardInterrupt):
        data.import_archive("cifar10", archive, tmp_path / "data", true)
    assert data.prepared("cifar10", tmp_path / "data") is None
    assert not [each for each in (tmp_path / "data").rglob("*") if each.is_file()]


def test_a_folder_of_the_sets_name_without_the_set(cifar, tmp_path):
    _, archive, true = cifar
    (tmp_path / "data" / "cifar10" / "3.0.2").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds no prepared set: delete it"):
        data.import_archive("cifar10", archive, tmp_path / "data", true)


def test_import_takes_no_tensorflow(cifar, tmp_path):
    _, archive, _ = cifar
    code = """
import sys
from kerascnn.data import archives, official, writing
true = official.OFFICIAL["cifar10"]
object.__setattr__(true, "check", lambda *arguments: None)
splits = archives.read_archive("cifar10", sys.argv[1], true)
writing.write("cifar10", sys.argv[2], lambda manager: splits, sys.argv[3])
print("tensorflow" in sys.modules)
"""
    answer = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            archive,
            tmp_path / "data",
            tmp_path / "downloads",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (answer.stdout, answer.stderr) == ("False\n", "")


@pytest.mark.slow
def test_tfds_itself_prepares_the_same_set(cifar, tmp_path):
    """Its own code, with TensorFlow and into TFRecord, which this reads too."""
    pytest.importorskip("tensorflow")
    splits, archive, true = cifar
    data.import_archive("cifar10", archive, tmp_path / "data", true)
    imported = data.load("cifar10", "full", tmp_path / "data")
    write(tmp_path / "extracted", binary(splits))
    # In a process of its own, so that TensorFlow stays out of this one.
    code = """
import sys
import tensorflow_datasets as tfds
from kerascnn import UsageError, data

extracted, folder = sys.argv[1:]
builder = tfds.builder("cifar10", data_dir=folder, file_format="tfrecord")
manager = type("Manager", (), {
    "downloaded_size": 0,
    "download_and_extract": lambda self, url: extracted,
})
builder._make_download_manager = lambda **options: manager()
tfds.disable_progress_bar()
builder.download_and_prepare()
print("answer", data.load("cifar10", "full", folder).hash)

(file,) = builder.data_path.glob("*test.tfrecord*")
file.write_bytes(file.read_bytes()[:-20])
try:
    data.load("cifar10", "full", folder)
except UsageError as error:
    print("answer", file.name in str(error), len(str(error).splitlines()))
"""
    answer = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "extracted", tmp_path / "tfrecord"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    lines = [line for line in answer.stdout.splitlines() if line.startswith("answer")]
    # The hash covers the order of the images.
    assert lines == [f"answer {imported.hash}", "answer True 1"]


@pytest.mark.full_data
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "python"])
def test_the_full_cifar10_comes_back_from_its_archive(kind, full_data, tmp_path):
    import tensorflow_datasets as tfds

    loaded = full_data("cifar10")
    builder = tfds.builder_from_directory(data.prepared("cifar10", FULL))
    splits = {}
    for split in ("train", "test"):
        whole = getattr(loaded, split)
        source = builder.as_data_source(split)
        rows = source.__getitems__(list(range(len(whole))))
        order = np.argsort([row["id"] for row in rows])
        splits[split] = (whole.images[order], whole.labels[order])
    archive = tmp_path / f"cifar-10-{kind}.tar.gz"
    archive.write_bytes(tar({"binary": binary, "python": python}[kind](splits)))
    data.import_archive("cifar10", archive, tmp_path / "data")
    imported = data.load("cifar10", "full", tmp_path / "data", tmp_path / "cache")
    for split, (images, labels) in splits.items():
        part = getattr(imported, split)
        assert content(part.images, part.labels) == content(images, labels)
