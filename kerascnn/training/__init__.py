"""A training run: from a recipe to its finished folder, with checkpoints to go on."""
