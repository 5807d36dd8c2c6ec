"""`python -m finlab` is the `finlab` command."""

import sys

from finlab.runs import main

sys.exit(main())
