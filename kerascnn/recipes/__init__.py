"""The recipes: one whole, runnable file for each case of the course."""

from kerascnn.cli import parsing

parsing.begin_program(__name__, computes=True)
