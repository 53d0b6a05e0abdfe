"""Read the arrays out of a CIFAR-10 batch without running its pickle program.

`pickle.loads` calls whatever functions a file names. Here the file's opcodes are read
with `pickletools`, and a call is kept as a note of what would be called.
"""

import io
import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

# Opcodes that put a value of their own on the stack, and those that write one out.
_MADE = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_WRITTEN = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINUNICODE", "SHORT_BINUNICODE"),
}


@dataclass
class Call:
    """A note that the pickle would call a function, and then set a state."""

    function: str
    arguments: tuple
    state: Any = None


def cifar_batch(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Read a batch of cifar-10-python.tar.gz: images (n, 32, 32, 3), labels."""
    try:
        batch = value(data)
        labels = batch["labels"]
        if not all(type(label) is int for label in labels):
            raise ValueError("its labels are not numbers")
        pixels = _pixels(batch["data"], (len(labels), 3072))
        labels = np.array(labels, dtype=np.uint8)
    # A strange file can be wrong anywhere: a list for a number, an unknown memo.
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a CIFAR-10 batch: {error!r}") from error
    # Stored as 1024 red values, then green, then blue, each row by row.
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def value(data: bytes) -> Any:
    """The value a pickle describes, with a `Call` in place of each call.

    Raises ValueError where the pickle is damaged or uses what no CIFAR-10 batch needs,
    LookupError where it takes from an empty stack, or an unknown memo.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    marks: list[int] = []

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                marks.append(len(stack))
            case name if name in _MADE:
                stack.append(_MADE[name]())
            case name if name in _WRITTEN:
                if isinstance(argument, bytes):
                    argument = argument.decode("latin-1")
                stack.append(argument)
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = since_mark()
                stack[-1].extend(items)
            case "SETITEM":
                item, key = stack.pop(), stack.pop()
                stack[-1].update(_named([key, item]))
            case "SETITEMS":
                items = since_mark()
                stack[-1].update(_named(items))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(argument)
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(f"{module} {name}")
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                # How Python 3 writes bytes in an old protocol: as Latin-1 text.
                text = function == "_codecs encode" and arguments[1] == "latin1"
                stack.append(arguments[0] if text else Call(function, arguments))
            case "BUILD":
                state = stack.pop()
                stack[-1].state = state
            case "STOP":
                return stack.pop()
            case other:
                raise ValueError(f"the pickle opcode {other} does not belong here")
    raise ValueError("the pickle ends too early")


def _named(items: list[Any]) -> dict[str, Any]:
    # Tuples of tuples as keys could take for ever to hash.
    if not all(isinstance(key, str) for key in items[::2]):
        raise ValueError("a name in it is no text")
    return dict(zip(items[::2], items[1::2], strict=True))


def _pixels(call: Any, expected_shape: tuple[int, int]) -> np.ndarray:
    """The array that NumPy's own functions would have built from its notes."""
    # NumPy 2 moved the function; a copy saved anew names the new place.
    if not isinstance(call, Call) or call.function not in (
        "numpy.core.multiarray _reconstruct",
        "numpy._core.multiarray _reconstruct",
    ):
        raise ValueError("its data are not a NumPy array")
    _, shape, dtype, fortran_order, raw = call.state
    if dtype.function != "numpy dtype" or dtype.arguments[0] != "u1" or fortran_order:
        raise ValueError("its data are not 8-bit numbers in C order")
    pixels = np.frombuffer(raw.encode("latin-1"), dtype=np.uint8)
    if shape != expected_shape or pixels.size != expected_shape[0] * 3072:
        raise ValueError("its data are not 3072 numbers for each label")
    return pixels.reshape(expected_shape)
