"""`kerascnn COMMAND`, or `python -m kerascnn COMMAND`."""

import sys

from kerascnn.process import signals


def main() -> int:
    """Run the command line; Ctrl-C ends it quietly from before its first import on."""
    signals.stop_quietly()
    from kerascnn.cli import commands

    return commands.main()


if __name__ == "__main__":
    sys.exit(main())
