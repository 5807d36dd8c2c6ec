"""Run the `finlab` command as `python -m finlab`."""

import sys

from finlab.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
