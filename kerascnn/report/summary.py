"""The lines printed when a run has finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kerascnn.runs import Run


def text(run: Run) -> str:
    """Summarise a finished run: its accuracy beside the course's, and what it ran on.

    Args:
        run: A finished run.

    Returns:
        Some lines of text.
    """
    config, result = run.config, run.result
    course, data, environment = config["course"], config["data"], config["environment"]
    versions = environment["versions"]
    backend = environment["backend"]
    lines = [
        "",
        f"{config['recipe']}: {result['epochs']} epochs in "
        f"{duration(result['seconds'])} on {environment['processor']}"
        f" ({environment['device']}), Keras {versions['keras']} on {backend} "
        f"{versions[backend]}, seed {config['seed']}",
        _accuracy("test accuracy ", result["test_accuracy"], course["test"]),
        _accuracy("train accuracy", result["train_accuracy"], course["train"]),
        f"  course          {course['source']}"
        + (f": {course['says']}" if course["says"] else ""),
        f"  run folder      {run.folder}",
    ]
    if config["overrides"]:
        lines.append(f"  changed from the recipe: {', '.join(config['overrides'])}")
    if data["sample"]:
        lines.append(
            f"  This is a run on the bundled sample: {data['train_images']:,} training "
            f"and {data['test_images']:,} test images. Its accuracy is not to be set "
            "beside the course's.\n"
            f"  The full set: kerascnn data get {data['name']}"
        )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Write a time span as people say it: `"42 s"`, `"3 min 5 s"`, `"2 h 10 min"`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _accuracy(label: str, ours: float, course: float | None) -> str:
    line = f"  {label}  {ours:6.2%}"
    return line + (f"   course {course:.1%}" if course is not None else "")
