"""A run's model in other formats, each run back on real images."""
