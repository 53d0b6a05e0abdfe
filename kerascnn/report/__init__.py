"""Pictures and texts made from runs."""
