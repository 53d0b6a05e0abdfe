"""The command line: `kerascnn COMMAND`, and `python RECIPE.py`, which calls `main`."""
