"""`sdejax plan`: what a program would take on chips that are not here."""

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro
from tyro.conf import Positional

from sdejax.commands.arguments import parse

if TYPE_CHECKING:
    from sdejax.jobs.plan.programs import Program
    from sdejax.jobs.plan.topology import Topology


@dataclasses.dataclass(frozen=True)
class PlanCommand:
    """Tell the memory, arithmetic, collectives and shortest time that a program takes on chips that are not here."""

    verb: ClassVar[str] = "plan"
    model: Annotated[Positional[str], tyro.conf.arg(metavar="CONFIG_OR_SNAPSHOT")]
    """A config file, or a snapshot.
    The data of a config is not needed: its captions are assumed to have 4096 different words, and 16 words each.
    """
    topology: str
    """A TPU and its shape, such as v5e:4x4 or v5p:2x2x4; or a GPU and how many, such as h100:8."""
    batch: int | None = None
    """How many images all chips compute together. By default one for each chip, or the config's batch with --train."""
    train: bool = False
    """Plan a training step instead of generation."""
    fsdp: int | None = None
    """With --train: over how many chips the parameters are spread. By default the config's value."""
    steps: int | None = None
    """The number of steps of generation. By default 20."""
    guidance: float | None = None
    """Generate with classifier-free guidance, which takes two evaluations per step."""
    quick: bool = False
    """Compile with the least effort. It takes a quarter of the time, and plans a little more memory."""
    json: bool = False
    """Print one JSON object, for other programs."""

    def execute(self) -> int:
        """Compile the program, and print what it takes."""
        _check(self)
        import jax

        jax.config.update("jax_platforms", "cpu")  # planning must not occupy an accelerator of this machine

        from sdejax.jobs.plan.plan import plan
        from sdejax.jobs.plan.report import as_record, as_text
        from sdejax.jobs.plan.topology import topology_of

        topology = topology_of(self.topology)  # before any model: it sets the number of CPU devices
        made = plan(_program(self, topology), topology, self.quick)
        print(json.dumps(as_record(made)) if self.json else as_text(made))
        return 0


def from_words(words: Sequence[str]) -> PlanCommand:
    """The command that these words ask for."""
    return parse(PlanCommand, words)


def _check(command: PlanCommand) -> None:
    """**Raises:** `ValueError` for an option that training or generation does not have."""
    if not command.train and command.fsdp is not None:
        raise ValueError(f"--fsdp={command.fsdp}: is an option of --train")
    for name, value in {"--steps": command.steps, "--guidance": command.guidance}.items():
        if command.train and value is not None:
            raise ValueError(f"{name}={value}: is an option of generation, not of --train")


def _program(command: PlanCommand, topology: "Topology") -> "Program":
    """**Raises:** `ValueError` if a training step is asked for without a config."""
    import sdejax as sj
    from sdejax.jobs.plan.programs import generation, model_of, training

    model, config = model_of(command.model)
    if not command.train:
        sampler = sj.Sampler() if command.steps is None else sj.Sampler(command.steps)
        return generation(model, topology, command.batch, sampler, command.guidance)
    if config is None:
        raise ValueError(f"--train: needs a config, but {command.model!r} is a snapshot")
    return training(config, model, topology, command.batch, command.fsdp)
