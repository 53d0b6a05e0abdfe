"""The command line: `kerascnn COMMAND`, and `main` for a recipe run as a file."""
