"""``python -m exportkit``: the same as the command ``exportkit``."""

import sys

from exportkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
