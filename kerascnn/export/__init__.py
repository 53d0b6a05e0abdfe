"""A run's model in other formats; each file is run on real images before it is kept."""
