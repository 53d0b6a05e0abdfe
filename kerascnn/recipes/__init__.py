"""The recipes: one whole, runnable file for each case of the course."""
