"""A model card as Hugging Face has them, made of a run's record alone."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerascnn import UsageError, runs
from kerascnn.data import decoding
from kerascnn.data.loading import is_path
from kerascnn.page import evidence
from kerascnn.text import duration

if TYPE_CHECKING:
    from kerascnn.runs import Run

NAME = "README.md"
CARD = """\
---
library_name: keras
license: {license}
pipeline_tag: image-classification
tags:
- image-classification
- kerascnn
{datasets}metrics:
- accuracy
model-index:
- name: {recipe}
  results:
  - task:
      type: image-classification
    dataset:
      name: {set_name}
      type: {set_name}
      split: {split}
    metrics:
{metrics}---

# {recipe}

A network that sorts images into {count} classes: kerascnn's recipe `{recipe}`, trained
on {set_name}.

{figures}

{notes}
## Use

```python
import keras

model = keras.saving.load_model("model.keras")
logits = model.predict(images)  # images: uint8, (n, {shape}), raw
```

{made}

The logits are of these classes, in this order:

{classes}

## Training

```sh
{command}
```

{environment}
"""


def check(file: Path) -> None:
    """Raise `UsageError` where no card can be written."""
    if file.exists():
        raise UsageError(f"{file} exists: name another file with --out.")
    if not file.parent.is_dir():
        raise UsageError(f"--out {file}: there is no folder {file.parent}; make it.")


def write(run: Run, file: Path) -> None:
    """Write a run's card, whole or not at all.

    Raises:
        UsageError: The run has no result yet, or the file exists or can't be written.
    """
    check(file)
    text, partial = card(run), file.with_name(f".{file.name}.partial")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"{file} can't be written: {error.strerror}.") from error


def card(run: Run) -> str:
    """Return a run's model card: Markdown below YAML.

    It holds no figure that the run's `config.json` and `result.json` do not.
    """
    config, result = run.config, run.result
    data, name = config["data"], config["data"]["name"]
    split = "validation" if config.get("validation") else "test"
    own = is_path(name) or is_path((config.get("options") or {}).get("dataset") or "")
    found = _figures(result, split)
    settings = {"seed": config["seed"], "epochs": result["epochs"]}
    arguments = "".join(f"        {key}: {value}\n" for key, value in settings.items())
    metrics = [
        f"    - type: accuracy\n      value: {json.dumps(value)}\n"
        f"      name: {called}\n      args:\n{arguments}"
        for called, value in found.items()
    ]
    return CARD.format(
        # The licence of what others have made is theirs to say.
        license="unknown" if own or config.get("recipe_file") else "apache-2.0",
        datasets="" if own else f"datasets:\n- {name}\n",
        recipe=config["recipe"],
        set_name="own-images" if own else name,
        split=split,
        metrics="".join(metrics),
        count=len(data["classes"]),
        shape=", ".join(map(str, data["image"])),
        made=decoding.made_of_files(data["image"]),
        figures=_table(config, result, found, split),
        notes="".join(f"- {line}\n" for line in _notes(config, result)),
        classes=", ".join(f"`{each}`" for each in data["classes"]),
        command=_command(config),
        environment=_environment(config, result),
    )


def _figures(result: dict[str, Any], split: str) -> dict[str, float]:
    """Return the accuracies that a result holds, 0 to 1, by what they are called."""
    views = result.get(f"{split}_accuracy_with_views")
    half = result.get("in_half_precision") or {}
    named = {
        f"{split} accuracy after the last epoch": result.get(f"{split}_accuracy"),
        f"{split} accuracy, mean of {result.get('views')} views": views,
        "test accuracy of the weights in half precision": half.get("test_accuracy"),
    }
    return {name: value for name, value in named.items() if value is not None}


def _table(
    config: dict[str, Any], result: dict[str, Any], found: dict[str, float], split: str
) -> str:
    data = config["data"]
    rows = {name: f"{value:.2%}" for name, value in found.items()}
    rows["training accuracy"] = f"{result['train_accuracy']:.2%}"
    rows |= {"seed": str(config["seed"]), "epochs": str(result["epochs"])}
    rows["training images"] = f"{data['train_images']:,}"
    rows[f"{split} images"] = f"{data[f'{split}_images']:,}"
    return "\n".join(
        ["| | |", "| --- | --- |", *(f"| {n} | {value} |" for n, value in rows.items())]
    )


def _notes(config: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """Say what a reader must know to take the figures for what they are."""
    said = ["One seed. The last epoch counts: the test images have chosen nothing."]
    if not result["finished"]:
        said.append(
            "The training was interrupted: this is what it had learned by then."
        )
    if config["data"]["sample"]:
        said.append("Trained on a small sample of the set, for trying things.")
    if changed := config["overrides"]:
        said.append(f"Changed from the recipe: {', '.join(changed)}.")
    return [*said, *runs.trained_on(config), *runs.fine_tuned(config)]


def _command(config: dict[str, Any]) -> str:
    """Return the command that does the run again, without folders of this machine."""
    words = shlex.split(evidence.command(config))
    return " ".join(
        word
        if word == "&&"
        else shlex.quote(f"./{Path(word).name}" if "/" in word else word)
        for word in words
    )


def _environment(config: dict[str, Any], result: dict[str, Any]) -> str:
    environment = config["environment"]
    versions, backend = environment["versions"], environment["backend"]
    return (
        f"It took {duration(result['seconds'])} on {environment['processor']} "
        f"({environment['device']}), with keras {versions['keras']} and {backend} "
        f"{versions[backend]}.\nSHA-256 of the recipe's settings: "
        f"`{config['fingerprint']}`;\nof the weights: `{result['weights_sha256']}`."
    )
