"""The `finlab` command, also as `python -m finlab`."""

import sys

from finlab.data import cards  # noqa: F401  (tells `run` how a data card is fingerprinted)
from finlab.run.cli import main

if __name__ == "__main__":
    sys.exit(main())
