"""Image sets that are folders: what lies where, by each usual layout."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kerascnn import UsageError
from kerascnn.data import image_files, tables
from kerascnn.data.folders import check_folder
from kerascnn.data.image_files import Found
from kerascnn.data.listing import ROLES, TESTS, TRAINS, Listing, split_name
from kerascnn.text import printable


def listed(folder: Path) -> Listing:
    """List the images of a folder, whichever of the usual layouts it has.

    A split has its folder, under any of its usual names, and each class its own below,
    or each class has its folder at the top and nothing says what to test on, or a
    metadata.csv names files and labels, as in Hugging Face's `imagefolder`. Folders
    inside a class's folder belong to the class. A file that is an image by its name or
    its content is read, or refused by name; others are passed over and counted.
    """
    check_folder(folder)
    roles = _roles(folder)
    metadata = _metadata(folder, roles)
    if metadata:
        found = tables.listed(metadata)
        found.unused = found.unused or _unnamed(folder, found)
        return found
    roles = roles or {"train": folder}
    classes = {
        role: {name: image_files.find(place / name) for name in _folders(place)}
        for role, place in roles.items()
    }
    if folder in roles.values():
        _check_classes(folder, classes["train"])
    found = _listing(roles, classes)
    if folder not in roles.values():
        found.unused = _unused(roles)
    else:
        found.doubt = _same_folders(folder, classes["train"])
    return found


def _roles(folder: Path) -> dict[str, Path]:
    """The folders of "train" and "test"; of "train" alone; or of none."""
    inside: dict[str, Path] = {}
    for name in sorted(_folders(folder), key=len):  # "train" before "train_images"
        inside.setdefault(split_name(name), folder / name)
    train = next((inside[name] for name in TRAINS if name in inside), None)
    test = next((inside[name] for name in TESTS if name in inside), None)
    if train is None:
        return {}
    if test is not None:
        return {"train": train, "test": test}
    # A class may be called so: then its images lie in its folder itself.
    return {"train": train} if not _loose(train).images and _folders(train) else {}


def _metadata(folder: Path, roles: dict[str, Path]) -> dict[Path, str | None]:
    """The tables that name files and labels, with the split that each is."""
    places: dict[Path, str | None] = {folder: None}
    places |= {place: role for role, place in roles.items()}
    return {
        place / name: role
        for place, role in places.items()
        for name in tables.METADATA
        if (place / name).is_file() and tables.has_labels(place / name)
    }


def _unnamed(folder: Path, found: Listing) -> str:
    """How many images of a folder its metadata do not name."""
    named = sum(map(len, found.files.values()))
    count = image_files.count(folder, folder.resolve().parents) - named
    return f"{count:,} that no row names" if count > 0 else ""


def _check_classes(folder: Path, classes: dict[str, Found]) -> None:
    """Raise `UsageError` unless the folders at the top may be classes."""
    held = [name for name, found in classes.items() if found.images or found.refused]
    if len(held) > 1 and not all(split_name(n) in (*TRAINS, *TESTS) for n in held):
        return
    there = sorted(each.name for each in folder.iterdir())
    more = f" and {len(there) - 5:,} more" * (len(there) > 5)
    raise UsageError(
        f"{folder} is no data set: expected {ROLES}, or a folder for each class, with "
        f"images in them, and found {', '.join(there[:5]) or 'nothing'}{more}."
    )


def _same_folders(folder: Path, classes: dict[str, Found]) -> str:
    """Say where all classes hold the same folders and no images, as splits would."""
    places = {folder / name for name in classes}
    images = (file for found in classes.values() for file in found.images)
    # Asked first: of most sets the first image says no, and no folder is read again.
    if any(file.parent in places for file in images):
        return ""
    inside = {tuple(_folders(place)) for place in places}
    names = inside.pop()
    if inside or len(names) < 2:
        return ""
    return (
        f"each of its classes, {_some([*classes])}, holds the folders "
        f"{_some(names)}: where these are the classes, call the folders above train "
        "and test"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4:,} more" * (len(names) > 4)
    return printable(", ".join(names[:4])) + more


def _listing(roles: dict[str, Path], classes: dict[str, dict[str, Found]]) -> Listing:
    # Where they differ, that is a fault.
    names = tuple(dict.fromkeys(name for found in classes.values() for name in found))
    files = {
        role: [
            (file, label)
            for label, name in enumerate(names)
            for file in found.get(name, Found()).images
        ]
        for role, found in ({"test": {}} | classes).items()
    }
    others: Counter[str] = Counter()
    refused: list[str] = []
    for role, found in classes.items():
        loose = _loose(roles[role])
        others += sum((each.others for each in found.values()), loose.others)
        refused += [
            f"{file} is in no class: move it into the folder of one, or remove it."
            for file in sorted(loose.images)
        ]
        refused += loose.refused
        refused += [line for each in found.values() for line in each.refused]
        refused += [
            f"{each} is a link to what is not there: mend it, or remove it."
            for each in sorted(roles[role].iterdir())
            if each.is_symlink() and not each.exists() and each not in loose.images
        ]
    return Listing(
        names,
        files,
        by_content="test" not in roles,
        faults=_faults(roles, classes),
        refused=refused,
        others=others,
    )


def _faults(roles: dict[str, Path], found: dict[str, dict[str, Found]]) -> list[str]:
    """A line for each reason why the folders are no data set to train on."""
    train, test = roles["train"], roles.get("test")
    faults = []
    if test and (different := sorted({*found["train"]} ^ {*found["test"]})):
        faults.append(
            f"{train.parent}: {train.name} and {test.name} have different classes "
            f"({', '.join(different)})."
        )
    if len(found["train"]) < 2:
        faults.append(
            f"{train} holds {', '.join(found['train']) or 'no class'}: a network "
            "learns to tell two classes or more apart."
        )
    where = f" from {train.name} and {test.name}" if test else ""
    faults += [
        f"{roles[role] / name} holds no image: add some, or remove the class{where}."
        for role, classes in found.items()
        for name in classes
        if not classes[name].images and not classes[name].refused
    ]
    if test is None:
        faults += [
            f"{train / name} holds one image: add some, because one is tested on, or "
            "remove the class."
            for name, each in found["train"].items()
            if len(each.images) == 1
        ]
    return faults


def _loose(role: Path) -> Found:
    """What lies beside the folders of the classes, and in hidden folders."""
    loose = Found()
    for each in sorted(role.iterdir()):
        hidden = each.name.startswith(".")
        if hidden and each.is_dir():
            for file in image_files.walk(each):
                image_files.add(loose, file, hidden)
        elif not each.is_dir():
            image_files.add(loose, each, hidden)
    return loose


def _unused(roles: dict[str, Path]) -> str:
    """How many images lie beside the folders of the roles, at any depth, and where."""
    folder = roles["train"].parent
    counts: Counter[str] = Counter()
    others = *roles.values(), folder, *folder.resolve().parents
    for each in sorted(folder.iterdir()):
        place = each.name if each.is_dir() else f"{folder.name} itself"
        counts[place] += image_files.count(each, others)
    return ", ".join(
        f"{count:,} image{'s' * (count > 1)} in {printable(place)}"
        for place, count in counts.items()
        if count
    )


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            # A link to itself makes `entry.is_dir` raise, and `isdir` return False.
            names = [
                each.name
                for each in entries
                if (os.path.isdir(each) if each.is_symlink() else each.is_dir())
            ]
        return sorted(name for name in names if not name.startswith("."))
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be read: {os.strerror(error.errno or 0)}."
        ) from error
