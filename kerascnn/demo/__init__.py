"""The page of `kerascnn demo`: a run's network in a browser, without a server."""
