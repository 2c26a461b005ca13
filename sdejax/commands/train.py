"""Command-line words to a run: a config file, then overrides of its fields."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from sdejax.commands.arguments import FLAT, parse
from sdejax.runtime.distributed import Processes
from sdejax.training.config import Config, load_config


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a score model, or go on with a run: the same command resumes."""

    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default=Config("", ""), metadata=FLAT)
    dry_run: bool = False
    """Print what the run would take (parameters, memory, arithmetic, sharding), and train nothing."""
    profile: bool = False
    """Write a trace of a few steps to the run's folder."""
    processes: Processes = Processes()


def main(arguments: Sequence[str]) -> int:
    """`CONFIG [--field value ...]`; --help after the config lists every field."""
    if not arguments or arguments[0].startswith("-"):
        print("usage: sdejax train CONFIG [--overrides]\n\nsdejax train CONFIG --help lists every override.")
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    given = load_config(arguments[0])
    command = parse(Train, f"sdejax train {arguments[0]}", arguments[1:], Train(given))
    from sdejax.training.loop import run

    return run(command.config, command.processes, dry_run=command.dry_run, profile=command.profile)
