"""A whole CNN course as short, runnable Keras 3 recipes.

Importing the package chooses the Keras backend, JAX unless the environment variable
`KERAS_BACKEND` says otherwise, and imports nothing else: import it before `keras`.
"""

import os

__version__ = "0.1.0"

os.environ.setdefault("KERAS_BACKEND", "jax")


class UsageError(ValueError):
    """A mistake that the user can mend.

    The message is one line: what was passed, what was expected, how to go on. The
    command line prints it and exits with code 2, without a traceback.
    """
