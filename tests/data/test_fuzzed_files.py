"""Random damage to archives, image folders and the cache: found, or said in a line."""

import gzip
import io
import itertools
import os
import re
import tarfile

import numpy as np
import pytest
from archive_files import cifar_python, tar, write
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_importing import binary, gz, idx_files, official, part, python

from kerascnn import UsageError
from kerascnn.cli import commands
from kerascnn.data import archives, cache, pickles

FEW = settings(derandomize=True, deadline=None, database=None)
SLOW = [pytest.mark.slow, pytest.mark.timeout(3600)]
HOW_MANY = [40, pytest.param(2000, marks=SLOW)]
MORE = [150, pytest.param(20_000, marks=SLOW)]


@st.composite
def damage(draw, content):
    """Content with bits flipped, a part cut out, doubled or overwritten, or others."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(1, 64))
        match draw(st.sampled_from(["flip", "cut", "end", "double", "over", "other"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + length]
            case "end":
                del data[at:]
            case "double":
                data[at:at] = data[at : at + length]
            case "over":
                data[at : at + length] = draw(st.binary(max_size=64))
            case "other":
                data[:] = draw(st.binary(max_size=200))
    return bytes(data)


# Members that no official archive has.
STRANGE = [
    *("../outside", "/tmp/outside", "cifar-10-batches-bin/../../outside", "..", "/"),
    *("cifar-10-batches-bin/data_batch_1.bin", "cifar-10-batches-bin", "a\nb", "-rf"),
    *("cifar-10-batches-py/data_batch_1", "x" * 300, "é/\udcff"),
]
KINDS = [
    *(tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE),
    *(tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE, b"?"),
]


@st.composite
def headers(draw):
    """A tar header that claims anything, with few bytes behind it."""
    member = tarfile.TarInfo(draw(st.sampled_from(STRANGE)))
    member.type = draw(st.sampled_from(KINDS))
    member.linkname = draw(st.sampled_from(["", "/etc/passwd", "../../x"]))
    member.size = draw(st.sampled_from([0, 3, 512, 10**9, 8**11 - 1, 2**62]))
    member.pax_headers = draw(
        st.dictionaries(
            st.sampled_from(["size", "path", "GNU.sparse.map", "GNU.sparse.size"]),
            st.sampled_from(["-1", "9" * 30, "x", "0,9", "../up"]),
            max_size=2,
        )
    )
    form = draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    return member.tobuf(form, errors="surrogateescape") + draw(st.binary(max_size=600))


@pytest.fixture(scope="module")
def true_files():
    splits = part("cifar10")
    return {
        "binary": tar(binary(splits), "w"),
        "python": tar(python(splits), "w"),
    }


@pytest.mark.parametrize("examples", HOW_MANY)
def test_a_damaged_tar_archive_is_refused(examples, tmp_path, true_files, unchanged):
    true = official("cifar10", part("cifar10"))
    path = tmp_path / "cifar.tar.gz"

    @settings(FEW, max_examples=examples)
    @given(st.data())
    def check(drawn):
        whole = true_files[drawn.draw(st.sampled_from(sorted(true_files)))]
        match drawn.draw(st.sampled_from(["inside", "outside", "header"])):
            case "inside":
                content = gzip.compress(drawn.draw(damage(whole)), 1)
            case "outside":
                content = drawn.draw(damage(gzip.compress(whole, 1)))
            case "header":
                content = drawn.draw(headers()) + whole
        path.write_bytes(content)
        with unchanged(tmp_path):
            try:
                splits = archives.read_archive("cifar10", path, true)
            except UsageError:
                return
        # Only what makes no difference to the images can have been damaged.
        for split, arrays in splits.items():
            true.check(split, *arrays)

    check()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("size", [10**12, 2**62])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE, b"?"])
def test_a_member_that_claims_a_huge_size_is_refused_at_once(
    size, kind, tmp_path, true_files
):
    """tarfile would step over it in blocks of 10 KiB: found by the damage above."""
    member = tarfile.TarInfo("notes.txt")
    member.type, member.size = kind, size
    header = member.tobuf(tarfile.GNU_FORMAT)
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(gzip.compress(header + true_files["binary"], 1))
    with pytest.raises(UsageError, match=r"notes.txt' claims|cannot be read"):
        archives.read_archive("cifar10", path, official("cifar10", part("cifar10")))


@pytest.mark.parametrize("examples", HOW_MANY)
def test_a_damaged_idx_file_is_refused(examples, tmp_path, unchanged):
    splits = part("fashion_mnist")
    true = official("fashion_mnist", splits)
    whole = idx_files(splits)
    write(tmp_path, gz(whole))

    @settings(FEW, max_examples=examples)
    @given(st.data())
    def check(drawn):
        name = drawn.draw(st.sampled_from(sorted(whole)))
        file = tmp_path / f"{name}.gz"
        intact = file.read_bytes()
        inside = drawn.draw(st.booleans())
        content = drawn.draw(damage(whole[name] if inside else intact))
        file.write_bytes(gzip.compress(content, 1) if inside else content)
        with unchanged(tmp_path):
            try:
                found = archives.read_archive("fashion_mnist", tmp_path, true)
                for split, arrays in found.items():
                    true.check(split, *arrays)
            except UsageError:
                pass
        file.write_bytes(intact)

    check()


@pytest.mark.parametrize("examples", MORE)
def test_a_damaged_pickle_is_refused(examples):
    """Also one of random opcodes: nothing is called, and nothing grows without end."""
    images = np.zeros((2, 32, 32, 3), np.uint8)
    whole = cifar_python(images, [3, 7])
    head, tail = whole[:220], whole[-60:]

    @settings(FEW, max_examples=examples)
    @given(st.data())
    def check(drawn):
        if drawn.draw(st.booleans()):
            # The program's own bytes, not the pixels between them.
            pixels = whole[len(head) : -len(tail)]
            content = drawn.draw(damage(head)) + pixels + drawn.draw(damage(tail))
        else:
            codes = st.sampled_from(b"(.012FGIJKLMNPQRSTUVX]abcdeghijlopqrstu}\x80\x8c")
            content = bytes(drawn.draw(st.lists(codes, max_size=60)))
        try:
            found, labels = pickles.cifar_batch(content)
        except ValueError:
            return
        assert found.shape == (len(labels), 32, 32, 3)

    check()


def picture(kind):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


PICTURES = {kind: picture(kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF")}
PICTURES["PPM"] = picture("PPM")
NAMES = st.one_of(
    st.sampled_from(
        ["-rf", "--help", "a\nb", "é", "\udcff\udcfe", "\x1b[2J", "[bold]", "%s", " "]
    ),
    st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1
    ).map(lambda name: name[:20]),
)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("examples", HOW_MANY)
def test_any_folder_of_images_is_listed(examples, tmp_path, capfd, unchanged):
    numbers = iter(range(10**9))

    @st.composite
    def entry(draw):
        kind = draw(st.sampled_from(["picture", "cut", "noise", "loop", "folder"]))
        ending = draw(st.sampled_from(["png", "jpg", "BMP", "tif", "ppm", "gif"]))
        content = draw(st.sampled_from(sorted(PICTURES)))
        content = PICTURES[content]
        if kind == "cut":
            content = draw(damage(content))
        elif kind == "noise":
            content = draw(st.binary(max_size=300))
        return kind, f"{draw(NAMES)}.{ending}", content

    def put(folder, kind, name, content):
        path = folder / name
        if os.path.lexists(path):
            return
        match kind:
            case "loop":
                path.symlink_to(draw_target(path))
            case "folder":
                path.mkdir()
            case _:
                path.write_bytes(content)

    def draw_target(path):
        return path.name if len(path.name) % 2 else path.parent

    @settings(FEW, max_examples=examples)
    @given(st.lists(st.lists(entry(), max_size=3), min_size=4, max_size=4), NAMES)
    def check(drawn, name):
        pets = tmp_path / str(next(numbers))
        if name in ("cat", ".", ".."):
            name = "dog"
        entries = iter(drawn)
        for split in ("train", "test"):
            for label in ("cat", name):
                folder = pets / split / label
                folder.mkdir(parents=True)
                for each in next(entries):
                    put(folder, *each)
        capfd.readouterr()
        with unchanged(pets):
            code = commands.main(["data", "check", str(pets)])
        out, error = capfd.readouterr()
        assert code in (0, 2)
        assert "\x1b" not in out + error
        if code == 2:
            assert error.startswith("kerascnn: ")
            assert error.count("\n") == 1
            # One line for each fault and each image that can't be used.
            counts = re.findall(r"has (\d+) fault|(\d+) of \d+ images", error)
            told = sum(int(number) for pair in counts for number in pair if number)
            usable = re.compile(r"[\d,]+ images can be used: ").match
            lines = itertools.takewhile(lambda x: not usable(x), out.splitlines())
            lines = [x for x in lines if not x.startswith("Passed over: ")]
            assert len(lines) == told > 0

    check()


@pytest.mark.parametrize("examples", HOW_MANY)
def test_a_damaged_cache_is_never_trained_on(examples, tiny, tmp_path, capsys):
    prepared = tiny()
    before = cache.decoded(prepared, tmp_path / "cache")[1]
    before = {name: np.array(array) for name, array in before.items()}
    (place,) = (tmp_path / "cache").glob("*/")
    files = {file: file.read_bytes() for file in sorted(place.iterdir())}

    @settings(FEW, max_examples=examples)
    @given(st.data())
    def check(drawn):
        damaged = drawn.draw(st.sampled_from(sorted(files)))
        content = drawn.draw(damage(files[damaged]))
        place.mkdir(exist_ok=True)
        for file, whole in files.items():
            # A new file: the old one is mapped into this process's arrays.
            file.unlink(missing_ok=True)
            file.write_bytes(content if file == damaged else whole)
        _, arrays = cache.decoded(prepared, tmp_path / "cache")
        for name, array in before.items():
            np.testing.assert_array_equal(arrays[name], array)

    check()
