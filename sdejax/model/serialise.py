"""Models and processes as plain data, and back."""

import dataclasses
from typing import TYPE_CHECKING, Any

from sdejax.model.parametrisation import Parametrisation
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.sde.base import SDE
from sdejax.sde.rectified_flow import RectifiedFlow
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE, DiscreteVPSDE, SubVPSDE
from sdejax.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    pass


_SDES: tuple[type[SDE], ...] = (VPSDE, SubVPSDE, VESDE, RectifiedFlow, DiscreteVPSDE)


def sde_to_json(sde: SDE) -> dict[str, Any]:
    """A process as plain data: its class name and its parameters."""
    return {"class": type(sde).__name__, **dataclasses.asdict(sde)}  # pyright: ignore[reportArgumentType]


def sde_from_json(data: dict[str, Any]) -> SDE:
    """The inverse of `sde_to_json`."""
    data = _tuples(data)
    name = data.pop("class")
    for cls in _SDES:
        if cls.__name__ == name:
            return cls(**data)
    raise ValueError(f"sde class={name!r}: must be one of {', '.join(cls.__name__ for cls in _SDES)}")


def architecture_to_json(
    config: NCSNppConfig, sde: SDE, parametrisation: Parametrisation, vocabulary: Vocabulary | None
) -> dict[str, Any]:
    """Everything that a model is besides its parameters, as plain data."""
    return {
        "format": 1,
        "network": dataclasses.asdict(config),
        "sde": sde_to_json(sde),
        "parametrisation": dataclasses.asdict(parametrisation),
        "vocabulary": None if vocabulary is None else dataclasses.asdict(vocabulary),
    }


def architecture_from_json(
    data: dict[str, Any],
) -> tuple[NCSNppConfig, SDE, Parametrisation, Vocabulary | None]:
    """The inverse of `architecture_to_json`."""
    words = data["vocabulary"]
    return (
        NCSNppConfig(**_tuples(data["network"])),
        sde_from_json(data["sde"]),
        Parametrisation(**data["parametrisation"]),
        None if words is None else Vocabulary(tuple(words["words"]), words["length"]),
    )


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where these dataclasses have tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
