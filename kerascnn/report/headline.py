"""README's first figures: what the speed-run reaches, from the runs in the cookbook."""

from __future__ import annotations

import statistics
import textwrap

from kerascnn.report import markdown, records
from kerascnn.text import duration

RECIPE = "cifar_speedrun"
BEGIN = f"<!-- headline: recipes/{RECIPE}/runs.jsonl -->\n"


def rendered(readme: str, fingerprint: str) -> str:
    """Return README with the headline between its markers, if it has any."""
    return markdown.between(readme, BEGIN, f"{sentence(fingerprint)}\n")


def sentence(fingerprint: str) -> str:
    """Say what the runs of the speed-run as it is now have reached, and how fast."""
    runs = records.counted(records.read(f"{RECIPE}/runs"), fingerprint)
    if not runs:
        return f"`kerascnn run {RECIPE}` has no run in the cookbook yet."
    first = runs[0]["environment"]
    alike = [
        run["result"]["seconds"]
        for run in runs
        if all(
            run["environment"][name] == first[name]
            for name in ("device", "processor", "cores")
        )
    ]
    machine = first["device"]
    if machine == "cpu":
        machine = f"{first['cores']} cores of an {first['processor']}"
    many = f"the mean of {len(runs)} seeds" if runs[1:] else "one seed"
    median = "a median of " if alike[1:] else ""
    return textwrap.fill(
        f"**CIFAR-10: {_share(runs, '_with_views')}** of the test images right after "
        f"{runs[0]['epochs']} epochs, with six views of each; {_share(runs)} with one. "
        f"That is {many}, last epoch, in {median}"
        f"{duration(statistics.median(alike))} on {machine}: "
        f"`kerascnn run {RECIPE} --data full`.",
        88,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _share(runs: list[dict], kind: str = "") -> str:
    found = records.accuracy(runs, "test", kind)
    if found is None:
        return "–"
    deviation = f" ± {100 * found[1]:.2f}" * (len(runs) > 1)
    return f"{100 * found[0]:.2f}{deviation} %"
