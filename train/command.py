"""Command-line words to a run: a config file, then overrides of its fields."""

from collections.abc import Sequence

from sdejax.arguments import parse
from sdejax.config import Config, load_config


def main(arguments: Sequence[str]) -> int:
    """`CONFIG [--field value ...]`; --help after the config lists every field."""
    if not arguments or arguments[0].startswith("-"):
        print("usage: sdejax train CONFIG.py [--overrides]\n\nsdejax train CONFIG.py --help lists every override.")
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    config = parse(Config, f"sdejax train {arguments[0]}", arguments[1:], load_config(arguments[0]))
    from train.loop import run

    return run(config)
