"""`python -m sdejax` is the command `sdejax`."""

import sys

from sdejax.commands.main import main

sys.exit(main())
