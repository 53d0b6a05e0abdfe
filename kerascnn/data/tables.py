"""Image sets that a table lists: CSV or Parquet, with paths, labels and splits."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kerascnn import UsageError
from kerascnn.data.listing import TESTS, TRAINS, Listing, ordered, split_name
from kerascnn.text import one_line, printable

ENDINGS = (".csv", ".tsv", ".parquet")
# The names that columns usually have, in small letters; the first found is taken.
PATHS = ("path", "file_name", "filename", "file", "image", "image_path", "filepath")
LABELS = ("label", "class", "class_name", "category", "target")
SPLITS = ("split", "subset", "partition", "set")
# What Hugging Face's `imagefolder` calls the table in a folder.
METADATA = ("metadata.csv", "metadata.parquet")

Rows = list[tuple[str, str, str]]  # path, label, split


def listed(tables: dict[Path, str | None]) -> Listing:
    """List the images of tables, each of which may be one split's.

    Args:
        tables: The tables, and the split that each is: "train", "test", or `None` where
            a column says it, or nothing.
    """
    faults: list[str] = []
    refused: list[str] = []
    split_of: dict[Path, str] = {}
    label_of: dict[Path, str] = {}
    for table, role in tables.items():
        for path, label, split in _rows(table, faults):
            file = _file(table.parent, path)
            split = role or split
            if file is None:
                refused.append(f"{table} names {printable(path)}, which is no file.")
            elif label_of.setdefault(file, label) != label:
                faults.append(
                    f"{table} names {printable(path)} twice, as "
                    f"{printable(label_of[file])} and as {printable(label)}."
                )
            elif split_of.setdefault(file, split) != split:
                faults.append(
                    f"{table} names {printable(path)} in two splits, "
                    f"{split_of[file]} and {split}."
                )
    found = _listing(next(iter(tables)), label_of, split_of, faults)
    found.refused = refused
    return found


def _file(folder: Path, path: str) -> Path | None:
    """Return the file that a row names, as it is written on this system or another."""
    for written in (path, path.strip(), path.strip().replace("\\", "/")):
        file = Path(os.path.normpath(folder / written))
        if os.path.isfile(file):
            return file
    return None


def _listing(
    table: Path,
    label_of: dict[Path, str],
    split_of: dict[Path, str],
    faults: list[str],
) -> Listing:
    counts = Counter(split_of.values())
    test = next((name for name in ("test", *TESTS) if counts[name]), None)
    classes = ordered(label_of.values())
    number = {name: n for n, name in enumerate(classes)}
    files: dict[str, list[tuple[Path, int]]] = {"train": [], "test": []}
    unused = {name: n for name, n in counts.items() if name not in ("", "train", test)}
    for file, label in label_of.items():
        if (split := split_of[file]) not in unused:
            files["test" if split == test else "train"].append((file, number[label]))
    if len(classes) < 2:
        faults.append(
            f"{table} lists {', '.join(map(printable, classes)) or 'no image'}: a "
            "network learns to tell two classes or more apart."
        )
    if counts[""] and len(counts) > 1:
        faults.append(f"{table} gives a split to some images and to others none.")
    members = Counter(label for _, label in files["train"])
    least = 1 if test else 2
    faults += [
        f"{table} has {members[n] or 'no'} training image{'s' * (members[n] != 1)} of "
        f"{printable(name)}: {least} or more are needed."
        for n, name in enumerate(classes)
        if members[n] < least
    ]
    said = (f"{n:,} image{'s' * (n > 1)} of {name}" for name, n in unused.items())
    return Listing(
        classes, files, by_content=test is None, faults=faults, unused=", ".join(said)
    )


def has_labels(table: Path) -> bool:
    """Whether a table has a column of paths and one of labels."""
    names = _table(table)[0]
    return all(_column(names, known) is not None for known in (PATHS, LABELS))


def _rows(table: Path, faults: list[str]) -> Rows:
    """Return a table's paths, labels and splits, and note what is wrong with rows."""
    names, rows = _table(table)
    columns = []
    for what, known in (("paths", PATHS), ("labels", LABELS)):
        column = _column(names, known)
        if column is None:
            there = ", ".join(printable(str(name)) for name in names[:8])
            raise UsageError(
                f"{table} has no column of {what}: expected one called "
                f"{', '.join(known[:-1])} or {known[-1]}, and found {there or 'none'}."
            )
        columns.append(column)
    split = _column(names, SPLITS)
    found = []
    for number, row in rows:
        values = [row[c] if c < len(row) else None for c in columns]
        if any(not isinstance(v, str | int) or v == "" for v in values):
            holds = " or ".join(
                str(names[c])
                for c, v in zip(columns, values, strict=True)
                if not isinstance(v, str | int) or v == ""
            )
            faults.append(f"{table}, row {number}: no text in {printable(holds)}.")
            continue
        role = "" if split is None else str(row[split] if split < len(row) else "")
        role = split_name(role)
        if split is not None and role not in (*TRAINS, *TESTS):
            faults.append(
                f"{table}, row {number}: the split {printable(role)!r} is none of "
                f"{', '.join((*TRAINS, *TESTS))}."
            )
            continue
        role = {**dict.fromkeys(TRAINS, "train"), "testing": "test"}.get(role, role)
        found.append((str(values[0]), str(values[1]).strip(), role))
    return found


def _column(names: list[Any], known: Iterable[str]) -> int | None:
    plain = [str(name).strip().lower() for name in names]
    return next((plain.index(name) for name in known if name in plain), None)


def _table(table: Path) -> tuple[list[Any], list[tuple[int, list[Any]]]]:
    """Return a table's column names, and its rows with their numbers in the file."""
    try:
        if table.suffix.lower() == ".parquet":
            return _parquet(table)
        return _csv(table.read_text("utf-8-sig"))
    except ImportError as error:
        raise UsageError(
            f"{table} takes pyarrow to read: pip install pyarrow, or save it as CSV."
        ) from error
    # PyArrow raises what it likes on damaged bytes.
    except Exception as error:
        raise UsageError(
            f"{table} can't be read as a table ({one_line(error, most=200)})."
        ) from error


def _csv(text: str) -> tuple[list[Any], list[tuple[int, list[Any]]]]:
    first = text.partition("\n")[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count)
    )
    rows: list[tuple[int, list[Any]]] = [
        (reader.line_num, row) for row in reader if any(map(str.strip, row))
    ]
    return (rows[0][1] if rows else []), rows[1:]


def _parquet(table: Path) -> tuple[list[Any], list[tuple[int, list[Any]]]]:
    import pyarrow.parquet

    read = pyarrow.parquet.read_table(table)
    columns = [column.to_pylist() for column in read.columns]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return read.column_names, list(enumerate(rows, 1))
