"""The slides' worked examples, one runnable file each.

    python -m kerascnn.lessons.batch_norm

says what it shows, prints small tables and saves a figure under `runs/lessons/`. Every
file stands alone: read it, call its functions, change its numbers.
"""

from kerascnn.cli import parsing

parsing.begin_program(__name__)
