"""`python -m stablerep_hf.cli`, which is also what a launcher starts."""

import sys

from . import main

sys.exit(main())
