"""The training program: `python -m train CONFIG`, the same as `sdejax train CONFIG`."""
