"""`python -m train CONFIG [--overrides]`."""

import sys

from train.command import main

sys.exit(main(sys.argv[1:]))
