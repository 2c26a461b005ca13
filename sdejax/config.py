"""Training configurations: frozen dataclasses. A config file is Python with `get_config() -> Config`."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

from sdejax.model import Parametrisation
from sdejax.nn.architecture import NCSNppConfig
from sdejax.nn.text import Vocabulary
from sdejax.sde import SDE, VESDE, VPSDE, DiscreteVPSDE, RectifiedFlow, SubVPSDE
from sdejax.training import Objective

_SDES: tuple[type[SDE], ...] = (VPSDE, SubVPSDE, VESDE, RectifiedFlow, DiscreteVPSDE)


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """Adam: linear warm-up, a constant rate, and a linear decay to 0 over the last `decay` of the steps.

    The constant part does not depend on the number of steps, so a run can be prolonged, or brought to its end
    early, by changing `steps` and starting the same command again.
    """

    learning_rate: float = 1e-3
    warmup: int = 500
    decay: float = 0.2
    beta1: float = 0.9
    beta2: float = 0.99
    clip: float = 1.0


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run. `data` and `validation` are folders of images, with captions.jsonl where `captions`."""

    name: str
    data: str
    validation: str = ""
    captions: bool = False
    out: str = ""
    network: NCSNppConfig = NCSNppConfig()
    sde: VPSDE | SubVPSDE | VESDE | RectifiedFlow = VPSDE()
    parametrisation: Parametrisation = Parametrisation()
    objective: Objective = Objective()
    optimiser: OptimiserConfig = OptimiserConfig()
    batch: int = 64
    steps: int = 100_000
    ema_decay: float = 0.999
    seed: int = 0
    flip: bool = False
    log_every: int = 50
    validate_every: int = 1000
    sample_every: int = 1000
    checkpoint_every: int = 500
    checkpoints_kept: int = 2

    @property
    def folder(self) -> Path:
        """Where the run keeps everything: `out`, or runs/NAME."""
        return Path(self.out or Path("runs") / self.name)


def load_config(path: str | Path) -> Config:
    """The `Config` that the `get_config()` of a Python file returns.

    **Raises:** `ValueError` where the file is missing or has no `get_config`.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config={str(path)!r}: no such file; a config is a Python file with get_config()")
    spec = importlib.util.spec_from_file_location("sdejax_config", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"config={str(path)!r}: has no get_config()")
    return module.get_config()


def sde_to_json(sde: SDE) -> dict[str, Any]:
    """A process as plain data: its class name and its parameters."""
    return {"class": type(sde).__name__, **dataclasses.asdict(sde)}  # pyright: ignore[reportArgumentType]


def sde_from_json(data: dict[str, Any]) -> SDE:
    """The inverse of `sde_to_json`."""
    data = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
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
    network: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in data["network"].items()
    }
    words = data["vocabulary"]
    return (
        NCSNppConfig(**network),
        sde_from_json(data["sde"]),
        Parametrisation(**data["parametrisation"]),
        None if words is None else Vocabulary(tuple(words["words"]), words["length"]),
    )


def config_to_json(config: Config) -> str:
    """The whole config as readable text, kept beside a run."""
    return json.dumps({**dataclasses.asdict(config), "sde": sde_to_json(config.sde)}, indent=1) + "\n"
