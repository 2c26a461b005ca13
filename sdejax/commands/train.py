"""`sdejax train`: train a model by a config file, whose fields are options."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, ClassVar

import tyro

from sdejax.commands.arguments import FLAT, parse
from sdejax.runtime.distributed import Processes
from sdejax.training.config import Config, load_config

_USAGE = """usage: sdejax train CONFIG [OPTIONS]

sdejax train CONFIG --help lists the options. They replace the values of the config file."""


@dataclasses.dataclass(frozen=True)
class TrainCommand:
    """Train a score model. The same command continues a run that was stopped."""

    verb: ClassVar[str] = "train"
    config: Annotated[Config, tyro.conf.arg(name="")] = dataclasses.field(default=Config("", ""), metadata=FLAT)
    dry_run: bool = False
    """Print what the run would need (parameters, memory, arithmetic, sharding), and train nothing."""
    profile: bool = False
    """Write a trace of a few steps to the run's folder."""
    processes: Processes = Processes()

    def execute(self) -> int:
        """Train, or print what it would need."""
        from sdejax.training.loop import run

        return run(self.config, self.processes, dry_run=self.dry_run, profile=self.profile)


def from_words(words: Sequence[str]) -> TrainCommand:
    """The command that these words ask for: a config file, then options that replace its values."""
    if words and words[0] in ("-h", "--help"):
        print(_USAGE)
        raise SystemExit(0)
    if not words or words[0].startswith("-"):
        given = f"={words[0]!r}" if words else ""
        raise ValueError(f"CONFIG{given}: must be a config file, such as configs/emoji32.py; sdejax train --help")
    path = words[0]
    return parse(TrainCommand, words[1:], program=f"sdejax train {path}", default=TrainCommand(load_config(path)))
