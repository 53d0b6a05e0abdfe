"""What a user may have meant by a word that is none of ours."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# By what other programs call what ours has: near in meaning, not in letters. Each list
# holds commands, options or choices; those that a caller does not know are left out.
_MEANT = {
    "run": "train fit start launch execute",
    "resume": "continue restart reload",
    "list": "ls recipes models dir",
    "show": "info describe summary view print cat",
    "diff": "changes",
    "predict": "infer inference classify label",
    "export": "convert save",
    "evaluate": "eval test score accuracy metrics",
    "compare": "versus vs mcnemar",
    "runs": "history experiments",
    "clean": "prune purge gc tidy",
    "learns": "sweep trial",
    "data": "dataset datasets download fetch import get",
    "get": "download fetch install prepare pull",
    "check": "verify validate inspect",
    "statistics": "stats mean std moments normalize",
    "bench": "benchmark speed time profile perf",
    "step": "batch iteration",
    "cookbook": "render book",
    "report": "html page plot figures visualize visualise",
    "new": "create init copy add fork",
    "completion": "complete autocomplete",
    "parity": "verify validate torch pytorch",
    "--epochs": "--iterations --passes",
    "--batch-size": "--bs --bsz --minibatch",
    "--batch": "--batch-size --bs",
    "--learning-rate": "--step-size --alpha",
    "--seed": "--random-state",
    "--limit": "--subset --samples --max-samples --num-images --n-images",
    "--validation": "--holdout --val-split --validation-split",
    "--weights": "--pretrained --init --checkpoint --from-weights --finetune "
    "--fine-tune --load --initial-weights",
    "--freeze": "--frozen --fix --fixed --no-train",
    "--out": "--output --output-dir --save --save-dir --log-dir --run-dir --folder",
    "--data-dir": "--root --data-path --tfds-dir",
    "--precision": "--dtype --fp16 --bf16 --amp --half --mixed",
    "--backend": "--framework",
    "--resume": "--continue --restore",
    "--on-nan": "--skip-nan --nan",
    "--steps": "--iterations",
    "--jobs": "--workers --parallel",
    "tensorflow": "tf",
    "torch": "pytorch",
    "mixed_bfloat16": "bf16 bfloat16",
    "mixed_float16": "fp16 float16 half",
}
# By commands and options that do not exist: the way out.
_ELSEWHERE = {
    "help usage man": "`kerascnn --help` shows all commands, and `kerascnn COMMAND "
    "--help` a command's options",
    "version about": "`kerascnn --version` shows it",
    "--device --num-devices --threads --cpus --cores --num-threads": "--devices says "
    "how many cores or GPUs share a batch",
    "--gpu --gpus --cuda --cpu --tpu": "JAX takes a GPU where it is installed for one; "
    "JAX_PLATFORMS=cpu in the environment keeps it to the CPU",
    "--optimizer --optimiser --optim --opt --momentum --weight-decay --wd --dropout "
    "--loss --transform --transforms --augment --augmentation --normalization "
    "--normalisation --initializer --initialiser --activation --schedule --scheduler "
    "--lr-schedule --lr-scheduler --model --network --layers --callbacks": "the "
    "recipe's file says that: `kerascnn new mine --from RECIPE` copies it, to be "
    "changed",
    "--size --resize --width --height": "--image-size N brings images to N x N pixels",
}
_MOST = 3


def nearest(word: str, known: Iterable[str], most: int = _MOST) -> list[str]:
    """Return the known words that are near in meaning or letters, the nearest first."""
    known = list(known)
    word = word.lower()
    meant = [each for each in known if word in _MEANT.get(each, "").split()]
    if meant:
        return meant[:most]
    if elsewhere(word):  # `export` has most letters of `report`
        return []
    # As --lr for --learning-rate.
    initials = [each for each in known if re.sub(r"(\w)\w*-?", r"\1", each) == word]
    if initials:
        return initials[:1]
    # Without what all options begin with, which would make any two alike.
    letters = {re.sub(r"^-+|[^\w]", "", each.replace("-", "_")): each for each in known}
    bare = re.sub(r"^-+|[^\w]", "", word.replace("-", "_"))
    cutoff = 0.65 if len(bare) <= 3 else 0.7  # `rnu` has two letters of three
    close = difflib.get_close_matches(bare, letters, n=most, cutoff=cutoff)
    if not close and len(bare) >= 3:
        close = [each for each in letters if bare in each]
        close = close if len(close) <= most else []
    return [letters[each] for each in close[:most]]


def elsewhere(word: str) -> str | None:
    """Return the way out where no command or option does that, if one is known."""
    for words, way in _ELSEWHERE.items():
        if word.lower() in words.split():
            return way
    return None


def hint(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return the end of a message on an unknown word.

    Args:
        word: The word.
        known: The words there are.
        otherwise: What to say where none of them is near.
    """
    near = nearest(word, known)
    return f"did you mean {' or '.join(near)}?" if near else otherwise
