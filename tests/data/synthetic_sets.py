"""Sets of any size that stand for data no test can have.

    python tests/data/synthetic_sets.py FOLDER --gigabytes 10
    kerascnn run cifar_vgg_aug --engine stream --dataset synthetic --data-dir FOLDER

`--form jpegs` writes FOLDER/photos, a folder of JPEGs of unequal size for `--dataset`.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10
SHARDS, POOL = 16, 256


def encoded(size, kind, seed=0):
    """Return encoded images of random pixels: squares, or of unequal size as JPEGs."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(POOL):
        sides = (size, size) if kind == "PNG" else draw.integers(size, 2 * size, 2)
        file = io.BytesIO()
        pixels = draw.integers(0, 256, (*sides, 3), np.uint8)
        Image.fromarray(pixels).save(file, kind)
        found.append(file.getvalue())
    return found


def array_record(folder, size_in_bytes, size=32, kind="PNG", tested=1000):
    """Write a set as tensorflow-datasets prepares one; return its version's folder.

    The same 256 images come again and again, so that writing takes what the disk takes.
    """
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    place = Path(folder) / "synthetic" / "1.0.0"
    place.mkdir(parents=True)
    shape = (size, size, 3) if kind == "PNG" else (None, None, 3)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, encoding_format=kind.lower()),
            "label": tfds.features.ClassLabel(num_classes=CLASSES),
        }
    )
    rows = [
        features.serialize_example(
            features.encode_example({"image": io.BytesIO(each), "label": n % CLASSES})
        )
        for n, each in enumerate(encoded(size, kind))
    ]
    bytes_of_row = sum(map(len, rows)) / len(rows)
    trained = max(SHARDS, int(size_in_bytes / bytes_of_row))
    splits = []
    for split, number, shards in (("train", trained, SHARDS), ("test", tested, 1)):
        lengths = [len(range(shard, number, shards)) for shard in range(shards)]
        for shard, length in enumerate(lengths):
            file = f"synthetic-{split}.array_record-{shard:05}-of-{shards:05}"
            # Groups of one: an example is read alone.
            writer = ArrayRecordWriter(str(place / file), "group_size:1,uncompressed")
            for n in range(length):
                writer.write(rows[(n * 7 + shard) % POOL])
            writer.close()
        splits.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": str(int(number * bytes_of_row)),
                "shardLengths": list(map(str, lengths)),
            }
        )
    described = {"fileFormat": "array_record", "name": "synthetic", "version": "1.0.0"}
    (place / "dataset_info.json").write_text(json.dumps(described | {"splits": splits}))
    features.save_config(place)
    return place


def jpegs(folder, size_in_bytes, size=64):
    """Write folders of JPEGs of unequal size, train/CLASS/ and test/CLASS/."""
    place, written, number = Path(folder) / "photos", 0, 0
    images = encoded(size, "JPEG")
    while written < size_in_bytes or number < 10 * CLASSES:
        role = "test" if number % 10 == 9 else "train"
        where = place / role / f"class{number // 10 % CLASSES}"
        where.mkdir(parents=True, exist_ok=True)
        content = images[number % POOL]
        (where / f"{number}.jpg").write_bytes(content)
        number, written = number + 1, written + len(content)
    return place


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--form", choices=["array_record", "jpegs"])
    given = parser.parse_args()
    write = jpegs if given.form == "jpegs" else array_record
    print(write(given.folder, given.gigabytes * 1e9))
