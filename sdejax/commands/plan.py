"""`sdejax plan`: what a program would take on chips that are not here."""

import dataclasses
import json
from typing import Annotated

import tyro
from tyro.conf import Positional


@dataclasses.dataclass(frozen=True)
class Plan:
    """Memory, arithmetic, collectives and the time that peak rates allow, on chips that are not here."""

    model: Annotated[Positional[str], tyro.conf.arg(metavar="CONFIG_OR_SNAPSHOT")]
    """A config file, which needs no data (captions are taken to have 4096 words, 16 each), or a snapshot."""
    topology: str
    """A TPU and its shape, such as v5e:4x4 or v5p:2x2x4, or a GPU and how many, such as h100:8."""
    batch: int | None = None
    """Images over all chips; one for each chip, or in training the config's batch."""
    train: bool = False
    """A step of training, rather than generation."""
    fsdp: int | None = None
    """With --train, how many chips the state is spread over; the config's."""
    steps: int | None = None
    """Steps of generation, 20."""
    guidance: float | None = None
    """Generation with classifier-free guidance, two evaluations a step."""
    quick: bool = False
    """Compile with the least effort: a quarter of the time, a little more memory planned."""
    json: bool = False
    """One JSON object, for machines."""


def plan(command: Plan) -> int:
    """Compile and print."""
    for name in ("steps", "guidance") if command.train else ("fsdp",):
        value = getattr(command, name)
        if value is not None:
            raise ValueError(f"--{name}={value}: is for {'generation, not' if command.train else ''} --train")
    import jax

    jax.config.update("jax_platforms", "cpu")  # planning takes no accelerator that this machine may have

    import sdejax as sj
    from sdejax.jobs import plan as planning

    topology = planning.topology_of(command.topology)  # first: it sets the number of CPU devices
    model, config = planning.model_of(command.model)
    if command.train and config is None:
        raise ValueError(f"--train: needs a config, and {command.model!r} is a snapshot")
    if config is not None and command.train:
        program = planning.training(config, model, topology, command.batch, command.fsdp)
    else:
        sampler = sj.Sampler() if command.steps is None else sj.Sampler(command.steps)
        program = planning.generation(model, topology, command.batch, sampler, command.guidance)
    made = planning.plan(program, topology, command.quick)
    print(json.dumps(planning.as_record(made)) if command.json else planning.as_text(made))
    return 0
