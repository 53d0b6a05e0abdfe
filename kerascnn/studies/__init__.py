"""Studies of several trainings: does a network learn, do two libraries agree."""
