"""`python -m train CONFIG [--overrides]`: the same as `sdejax train`."""

import sys

from sdejax.commands.main import main

sys.exit(main(["train", *sys.argv[1:]]))
