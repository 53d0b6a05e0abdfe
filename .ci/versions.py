"""The versions that the suite passes with: kept as data, rendered into README.md.

`python .ci/versions.py` takes those of the Python that runs it, in place of what was
kept of the same Python, and renders the table again. Run it with each lane's Python
after the suite has passed there.
"""

import importlib.metadata
import json
import platform
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = ROOT / ".ci" / "versions.json"
PACKAGES = ["jax", "keras", "tensorflow", "torch"]
BEGIN, END = "<!-- versions tested -->\n", "<!-- end -->"


def installed() -> dict[str, str | None]:
    """Return the versions of this Python and its packages; None where one is not."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
        else:
            found[package] = version.partition("+")[0]
    return found


def table(lanes: list[dict[str, str | None]]) -> str:
    """Return the Markdown table of lanes."""
    names = ["python", *PACKAGES]
    rows = [names, ["---"] * len(names)]
    rows += [[lane[name] or "not installed" for name in names] for lane in lanes]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def rendered(readme: str, lanes: list[dict[str, str | None]]) -> str:
    """Return README with the lanes' table between its markers."""
    head, rest = readme.split(BEGIN)
    _, mark, tail = rest.partition(END)
    return f"{head}{BEGIN}{table(lanes)}{mark}{tail}"


def _minor(lane: dict[str, str | None]) -> tuple[int, ...]:
    return tuple(int(part) for part in (lane["python"] or "").split(".")[:2])


def main() -> None:
    """Take this Python's versions into the data, and the data into README."""
    new = installed()
    lanes = json.loads(DATA.read_text("utf-8")) if DATA.exists() else []
    lanes = [lane for lane in lanes if _minor(lane) != _minor(new)]
    lanes = sorted([*lanes, new], key=_minor)
    DATA.write_text(json.dumps(lanes, indent=2) + "\n", "utf-8")
    readme = ROOT / "README.md"
    readme.write_text(rendered(readme.read_text("utf-8"), lanes), "utf-8")


if __name__ == "__main__":
    main()
