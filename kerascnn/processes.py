"""Processes that one command starts and reads the answers of."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO


def answers() -> BinaryIO:
    """Return this process's standard output, for answers to the one that started it.

    Anything else that is printed must not mix with them: from now on it goes to
    standard error.
    """
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return output
