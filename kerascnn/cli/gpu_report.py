"""The command `kerascnn bench gpu-report`."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from kerascnn import UsageError, text
from kerascnn import recipe as recipes
from kerascnn.bench import gpu_report
from kerascnn.engine import counts
from kerascnn.process import gpus
from kerascnn.report import markdown
from kerascnn.training.options import Folder, parsed_seconds
from kerascnn.without_weights import without_weights


def report(rows: Sequence[Mapping[str, Any]], heading: str) -> str:
    """Return the report as Markdown.

    Args:
        rows: For each case `case` and either `result` or why it was `left_out`.
        heading: What it was measured on.
    """
    parts = ["# Training steps on a GPU", heading]
    for part in dict.fromkeys(row["case"]["part"] for row in rows):
        own = [row for row in rows if row["case"]["part"] == part]
        parts += [f"## {part}"]
        for name in dict.fromkeys(row["case"]["recipe"] for row in own):
            parts.append(_table([r for r in own if r["case"]["recipe"] == name]))
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of one network in a part, and what was left out of it."""
    case = rows[0]["case"]
    images = case["images"] // case["batch"] * case["batch"] or case["batch"]
    work = images * _operations(case["recipe"])
    done = [row for row in rows if "result" in row]
    ours = next((r["result"]["seconds"] for r in done if _is_ours(r["case"])), None)
    cells = [
        [
            f"`{gpu_report.Case(**row['case']).label}`",
            f"{1e3 * row['result']['seconds']:.4g} ms",
            f"{images / row['result']['seconds']:,.0f}",
            f"{work / row['result']['seconds'] / 1e12:.3g}",
            f"{row['result']['memory'] / 1e6:,.0f} MB",
            f"{row['result']['compile']:.1f} s",
            "-" if ours is None else f"{row['result']['seconds'] / ours:.2f}",
        ]
        for row in done
    ]
    head = ("contender", "time", "images/s", "TFLOP/s", "memory", "first", "its/ours")
    what = f"one epoch of {images:,} images" if case["images"] else "one step"
    said = [f"{case['recipe']}: {what}, batch {case['batch']}."]
    said += [markdown.table(head, cells)] * bool(cells)
    said += [
        f"Left out: `{gpu_report.Case(**row['case']).label}`: {row['left_out']}."
        for row in rows
        if "left_out" in row
    ]
    return "\n\n".join(said)


def _is_ours(case: Mapping[str, Any]) -> bool:
    return (case["contender"], case["flags"]) == (gpu_report.OURS, "")


def _operations(name: str) -> int:
    return counts.training_operations(without_weights(recipes.load(name).network))


@dataclasses.dataclass
class GpuReport:
    """Time the training steps on a GPU, beside stock Keras and PyTorch's fastest forms.

    The report compares steps and epochs, mixed_bfloat16 with the images' channels
    padded, CUDA graphs with convolutions and loops in them, and deterministic runs. One
    contender runs at a time; results.jsonl keeps each, and report.md shows all.
    """

    time: Annotated[str, tyro.conf.arg(metavar="TIME")] = "25min"
    """Begin no contender after this time, such as 25min; those left are named."""
    rounds: int = 5
    """Turns of each contender; the medians are shown."""
    device: Literal["gpu", "cpu"] = "gpu"
    """cpu: try the report out, on one small net."""
    plan: bool = False
    """Print what would be timed, and time nothing."""
    out: Folder = None
    """The report's folder (default: runs/gpu-report/<time>)."""

    def __post_init__(self):
        text.check_positive(self, "rounds")
        parsed_seconds(self.time, "--time")

    def __call__(self) -> None:
        cases = gpu_report.planned(self.device == "cpu")
        if self.plan:
            for case in cases:
                what = f"epochs of {case.images:,}" if case.images else "steps"
                print(f"{case.part}: {case.recipe}, {what}, {case.label}")
            return
        found = gpus.found()
        if self.device == "gpu" and not found:
            raise UsageError(
                "bench gpu-report: nvidia-smi lists no GPU here; --device cpu tries "
                "the report out, --plan shows what it would time."
            )
        place = found[0]["name"] if self.device == "gpu" else "a CPU, to try it out"
        folder = Path(
            self.out or Path("runs/gpu-report", time.strftime("%Y%m%d-%H%M%S"))
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            rows = self._timed(cases, folder / "results.jsonl")
            (folder / "report.md").write_text(report(rows, f"On {place}."), "utf-8")
        except OSError as error:
            raise UsageError(f"{folder} can't be written: {error.strerror}.") from error
        print(folder / "report.md")

    def _timed(
        self, cases: Sequence[gpu_report.Case], file: Path
    ) -> list[dict[str, Any]]:
        """Time the cases, and keep each as it is done."""
        begun, most = time.perf_counter(), parsed_seconds(self.time, "--time")
        rows, known = [], {}
        for number, case in enumerate(cases, 1):
            row: dict[str, Any] = {"case": dataclasses.asdict(case)}
            # The same work in two parts of the report is timed once.
            key = dataclasses.replace(case, part="")
            if key in known:
                row |= known[key]
            elif time.perf_counter() - begun > most:
                row["left_out"] = f"the {self.time} were over"
            else:
                text.say(f"{number} of {len(cases)}: {case.recipe}, {case.label}")
                row |= self._one(case)
                known[key] = {k: v for k, v in row.items() if k != "case"}
            rows.append(row)
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
        return rows

    def _one(self, case: gpu_report.Case) -> dict[str, Any]:
        try:
            if (
                self.device == "gpu"
                and gpu_report.device(gpu_report.backend(case)) == "cpu"
            ):
                return {"left_out": f"{gpu_report.backend(case)} does not see the GPU"}
            return {"result": gpu_report.measured(case, self.rounds)}
        except UsageError as error:
            return {"left_out": text.one_line(error, most=200)}
