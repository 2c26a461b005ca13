"""Training configurations: frozen dataclasses. A config file is Python with `get_config() -> Config`."""

import dataclasses
import importlib.util
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sdejax.model.parametrisation import Parametrisation
from sdejax.model.serialise import (
    fields_from_json,
    parametrisation_from_json,
    parametrisation_to_json,
    sde_from_json,
    sde_to_json,
)
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.sde.rectified_flow import RectifiedFlow
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE, SubVPSDE
from sdejax.training.objective import Objective

if TYPE_CHECKING:
    import optax


def _check(config: Any, *names: str, least: float, most: float = math.inf) -> None:
    """**Raises:** `ValueError` for the first field that is not a finite number in the range."""
    for name in names:
        value = getattr(config, name)
        if not least <= value <= most or not math.isfinite(value):
            allowed = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
            raise ValueError(f"{name}={value}: must be {allowed}")


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """Adam, or AdamW where there is `weight_decay`, after the gradient is clipped to the norm `clip` (0: not clipped).

    `schedule` of the rate, after a linear warm-up: "constant" ends in a linear decay to 0 over the last `decay` of the
    steps, and does not depend on the number of steps before that, so that a run can be prolonged, or brought to its
    end early, by changing `steps` and starting the same command again; "cosine" falls to 0 over all steps.
    """

    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 500
    decay: float = 0.2
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        _check(self, "learning_rate", "weight_decay", "clip", "epsilon", least=0.0)
        _check(self, "decay", "beta1", "beta2", least=0.0, most=1.0)
        _check(self, "warmup", least=0)

    def make(self, steps: int) -> "optax.GradientTransformation":
        """The optax optimiser for a run of so many steps."""
        import optax

        rate, warmup = self.learning_rate, self.warmup
        if self.schedule == "cosine":
            after, boundaries = [optax.cosine_decay_schedule(rate, max(1, steps - warmup))], [warmup]
        else:
            falling = max(1, round(self.decay * steps))
            after = [optax.constant_schedule(rate), optax.linear_schedule(rate, 0.0, falling)]
            boundaries = [warmup, max(warmup, steps - falling)]
        # A schedule is asked for its value before the step: step 1 of a warm-up takes the first part of the rate.
        rates = optax.join_schedules([optax.linear_schedule(rate / max(1, warmup), rate, warmup), *after], boundaries)
        adam = optax.adamw(rates, self.beta1, self.beta2, self.epsilon, weight_decay=self.weight_decay)
        plain = optax.adam(rates, self.beta1, self.beta2, self.epsilon)
        chosen = adam if self.weight_decay else plain
        return optax.chain(optax.clip_by_global_norm(self.clip), chosen) if self.clip else chosen


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run.

    **Data.** `data` and `validation` are folders of images, zips, tar shards, parquet or arrow files; `captions` says
    whether they have text, in `caption_column` where they are tables, beside `image_column`. `crop` is
    how an image of another ratio becomes one of the network's, `flip` mirrors half of the images, `undecodable` is the
    share of images that may be broken before the run stops. `threads` decode in each of `workers` processes, or in
    this one where there are none.

    **Optimisation.** `batch` images a step over all devices, in `accumulate` parts one after the other; `ema` are the
    decays of the moving averages, of which the first makes the snapshot. A step whose loss or gradient is not finite is
    skipped; more than `skips_allowed` in a row stop the run.

    **Devices.** Parameters are spread over `fsdp` devices, images over all.

    **Start.** `start` is a snapshot, or anything else that `sdejax.load` reads, to go on from: the run takes over its
    weights and with them its network, process, parametrisation and vocabulary, in place of the config's own.

    **Files.** `out` is the run's folder (runs/NAME without it). Checkpoints are in its folder checkpoints, or at
    `checkpoints`, which may be any path that orbax takes, such as gs://bucket/run; the newest `checkpoints_kept` stay,
    and each whose step `checkpoints_forever` divides (0: none).
    """

    name: str
    data: str
    validation: str = ""
    captions: bool = False
    classes: bool = False
    image_column: str = "image"
    caption_column: str = ""
    crop: Literal["center", "random", "stretch"] = "center"
    flip: bool = False
    undecodable: float = 0.01
    threads: int = 2
    workers: int = 0
    out: str = ""
    start: str = ""
    network: NCSNppConfig = NCSNppConfig()
    sde: VPSDE | SubVPSDE | VESDE | RectifiedFlow = VPSDE()
    parametrisation: Parametrisation = Parametrisation()
    objective: Objective = Objective()
    optimiser: OptimiserConfig = OptimiserConfig()
    batch: int = 64
    accumulate: int = 1
    steps: int = 100_000
    ema: tuple[float, ...] = (0.999,)
    skips_allowed: int = 20
    seed: int = 0
    fsdp: int = 1
    log_every: int = 50
    validate_every: int = 1000
    sample_every: int = 1000
    checkpoint_every: int = 500
    checkpoints: str = ""
    checkpoints_kept: int = 2
    checkpoints_forever: int = 0

    def __post_init__(self) -> None:
        _check(self, "batch", "accumulate", "steps", "fsdp", "threads", "log_every", "validate_every", least=1)
        _check(self, "checkpoint_every", "checkpoints_kept", "skips_allowed", least=1)
        _check(self, "workers", "sample_every", "checkpoints_forever", "seed", least=0)
        _check(self, "undecodable", least=0.0, most=1.0)
        if not self.ema or not all(0.0 <= decay < 1.0 for decay in self.ema):
            raise ValueError(f"ema={self.ema}: must be at least one decay, each at least 0 and below 1")
        if self.captions and self.classes:
            raise ValueError("captions=True, classes=True: give one of them; a model is told words or a class")
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate}: must divide the batch, {self.batch}")

    @property
    def folder(self) -> Path:
        """Where the run keeps everything: `out`, or runs/NAME."""
        return Path(self.out or Path("runs") / self.name)


def load_config(path: str | Path) -> Config:
    """A `Config`: what the `get_config()` of a Python file returns, or the config.json that a run keeps.

    **Raises:** `ValueError` where the file is missing, has no `get_config`, or is no config.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config={str(path)!r}: no such file; a config is a Python file with get_config()")
    if path.suffix == ".json":
        try:
            return config_from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"config={str(path)!r}: is not the config of a run ({error})") from None
    spec = importlib.util.spec_from_file_location("sdejax_config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"config={str(path)!r}: must be a .py file with get_config(), or a run's config.json")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"config={str(path)!r}: has no get_config()")
    return module.get_config()


def config_to_json(config: Config) -> str:
    """The whole config as readable text, kept beside a run; `sdejax train` takes it."""
    parts = {"sde": sde_to_json(config.sde), "parametrisation": parametrisation_to_json(config.parametrisation)}
    return json.dumps({**dataclasses.asdict(config), **parts}, indent=1) + "\n"


def config_from_json(data: Any) -> Config:
    """The inverse of `config_to_json`, once it is parsed.

    **Raises:** `ValueError` for a field or a value that is not known.
    """
    if not isinstance(data, dict):
        raise ValueError("must hold a JSON object")
    parts = {"network": NCSNppConfig, "objective": Objective, "optimiser": OptimiserConfig}
    read: dict[str, Any] = {name: fields_from_json(name, data.get(name), part) for name, part in parts.items()}
    read["sde"] = sde_from_json(data.get("sde"))
    read["parametrisation"] = parametrisation_from_json(data.get("parametrisation"))
    plain = {name: value for name, value in data.items() if name not in read}
    return dataclasses.replace(fields_from_json("config", plain, Config), **read)
