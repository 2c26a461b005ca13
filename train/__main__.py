"""`python -m train CONFIG [--overrides]`: the same as `sdejax train`."""

import sys

from sdejax.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
