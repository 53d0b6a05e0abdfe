"""The slides' worked examples, one runnable file each.

    python -m kerascnn.lessons.batch_norm

prints a small table and saves one figure. Every file stands alone: read it, call its
functions, change its numbers.
"""

from kerascnn.cli import parsing

parsing.check_program()
