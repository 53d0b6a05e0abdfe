"""`python -m kerascnn COMMAND`, as `kerascnn COMMAND`."""

import sys

from kerascnn.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
