"""Run the command line by ``python -m sdoml_dist``."""

import sys

from sdoml_dist.cli import main

sys.exit(main())
