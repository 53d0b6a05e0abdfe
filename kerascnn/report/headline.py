"""README's first figures: what the speed-run reaches, from the runs in the cookbook."""

from __future__ import annotations

import collections
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
    # Of the machine that most of the runs took place on.
    places = [
        tuple(run["environment"][name] for name in ("device", "processor", "cores"))
        for run in runs
    ]
    (place, _), *_ = collections.Counter(places).most_common(1)
    seconds = [
        run["result"]["seconds"]
        for run, there in zip(runs, places, strict=True)
        if there == place
    ]
    machine, processor, cores = place
    if machine == "cpu":
        machine = f"{cores} cores of an {processor}"
    median = "a median of " if seconds[1:] else ""
    some = f" ({len(seconds)} of them)" if len(seconds) < len(runs) else ""
    many = f"the mean of {len(runs)} seeds" if runs[1:] else "one seed"
    return textwrap.fill(
        f"**CIFAR-10: {_share(runs, '_with_views')}** of the test images right after "
        f"{runs[0]['epochs']} epochs, with six views of each; {_share(runs)} with one. "
        f"That is {many}, last epoch, in {median}"
        f"{duration(statistics.median(seconds))}{some} on {machine}: "
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
