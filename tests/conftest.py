"""Settings for all tests."""

import kerascnn  # noqa: F401 - chooses the Keras backend before anything imports keras
