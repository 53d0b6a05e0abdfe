"""The page of a run, `kerascnn report RUN`, and its figures for papers."""
