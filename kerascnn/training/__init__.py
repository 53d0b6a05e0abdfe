"""A training run: from a recipe to a finished run folder, with nothing lost."""
