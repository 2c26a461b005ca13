"""Training configurations: frozen dataclasses. A config file is Python with `get_config() -> Config`."""

import dataclasses
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sdejax.model.format_1 import parametrisation_from_format_1
from sdejax.model.json_objects import fields_from_json
from sdejax.model.parametrisation import Parametrisation
from sdejax.model.serialise import parametrisation_from_json, parametrisation_to_json, sde_from_json, sde_to_json
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.sde.base import SDE
from sdejax.sde.variance_preserving import VPSDE
from sdejax.training.check_range import check_range
from sdejax.training.objective import Objective
from sdejax.training.optimiser import OptimiserConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run.

    **Raises:** `ValueError` if a field or a combination of fields is outside its range.
    """

    name: str
    """The name of the run."""
    data: str
    """The training images: a folder, or zip, tar, parquet or arrow files."""
    validation: str = ""
    """Images that are held out to measure the loss; "" for none."""
    captions: bool = False
    """Whether the images have captions, which become the model's prompts."""
    classes: bool = False
    """Whether the images are in a folder per class; the names of the folders become the model's prompts."""
    image_column: str = "image"
    """The column of a parquet or arrow file with the images."""
    caption_column: str = ""
    """The column with the captions; "" takes "caption" or "text"."""
    crop: Literal["center", "random", "stretch"] = "center"
    """How an image of another ratio gets the network's: cut at both ends, cut at a random place, or stretched."""
    flip: bool = False
    """Mirror half of the images."""
    undecodable: float = 0.01
    """The share of images that may be broken before the run stops."""
    threads: int = 2
    """Threads that decode images, in each worker."""
    workers: int = 0
    """Processes that decode images; 0 decodes in this process."""
    out: str = ""
    """The folder of the run; "" is runs/NAME."""
    start: str = ""
    """A snapshot, or anything else that `sdejax.load` reads, whose weights the run starts from. Its network, process,
    parametrisation and prompts then replace those of this config.
    """
    network: NCSNppConfig = NCSNppConfig()
    sde: SDE = VPSDE()
    parametrisation: Parametrisation = Parametrisation()
    objective: Objective = Objective()
    optimiser: OptimiserConfig = OptimiserConfig()
    batch: int = 64
    """Images in a step, over all devices."""
    accumulate: int = 1
    """Parts of the batch that are computed one after the other, which takes less memory."""
    steps: int = 100_000
    """How long the run is."""
    ema: tuple[float, ...] = (0.999,)
    """Decays of the moving averages of the weights. The first makes the snapshot."""
    skips_allowed: int = 20
    """A step whose loss or gradient is not finite is skipped. More than this many in a row stop the run."""
    seed: int = 0
    """The seed of everything that is random."""
    fsdp: int = 1
    """The number of devices that share the parameters. Images are spread over all devices."""
    log_every: int = 50
    """Steps between two rows of metrics."""
    validate_every: int = 1000
    """Steps between two measurements of the validation loss."""
    sample_every: int = 1000
    """Steps between two sheets of samples; 0 makes none."""
    checkpoint_every: int = 500
    """Steps between two checkpoints, and between two snapshots."""
    checkpoints: str = ""
    """Where checkpoints are kept: a path that orbax takes, such as gs://bucket/run; "" is a folder of the run."""
    checkpoints_kept: int = 2
    """How many of the newest checkpoints are kept."""
    checkpoints_forever: int = 0
    """Checkpoints whose step is a multiple of this number are never deleted; 0 deletes all old ones."""

    def __post_init__(self) -> None:
        check_range(self, "batch", "accumulate", "steps", "fsdp", "threads", "log_every", "validate_every", least=1)
        check_range(self, "checkpoint_every", "checkpoints_kept", "skips_allowed", least=1)
        check_range(self, "workers", "sample_every", "checkpoints_forever", "seed", least=0)
        check_range(self, "undecodable", least=0.0, most=1.0)
        if self.crop not in ("center", "random", "stretch"):
            raise ValueError(f"crop={self.crop!r}: must be center, random or stretch")
        if not self.ema or not all(0.0 <= decay < 1.0 for decay in self.ema):
            raise ValueError(f"ema={self.ema}: must be at least one decay, each at least 0 and below 1")
        if self.captions and self.classes:
            raise ValueError("captions=True, classes=True: only one of them may be True")
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate}: must divide the batch, {self.batch}")

    @property
    def folder(self) -> Path:
        """The folder of the run: `out`, or runs/NAME."""
        return Path(self.out or Path("runs") / self.name)


def load_config(path: str | Path) -> Config:
    """Read a `Config`: the result of the `get_config()` of a Python file, or the config.json in the folder of a run.

    **Raises:** `ValueError` if the file is missing, has no `get_config`, or is not a config.
    """
    path, named = Path(path), f"config={str(path)!r}"
    if not path.is_file():
        raise ValueError(f"{named}: no such file; a config is a Python file with get_config()")
    if path.suffix == ".json":
        try:
            return config_from_json(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{named}: is not the config of a run ({error})") from None
    spec = importlib.util.spec_from_file_location("sdejax_config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{named}: must be a .py file with get_config(), or the config.json of a run")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{named}: has no get_config()")
    return module.get_config()


def config_to_json(config: Config) -> str:
    """The config as readable text, which a run keeps in its folder and `sdejax train` takes."""
    parts = {"sde": sde_to_json(config.sde), "parametrisation": parametrisation_to_json(config.parametrisation)}
    return json.dumps({**dataclasses.asdict(config), **parts}, indent=1) + "\n"


def config_from_json(data: object) -> Config:
    """The inverse of `config_to_json`, after parsing.

    Fields that the config of an older run lacks are at their defaults.

    **Raises:** `ValueError` for an unknown field or value.
    """
    if not isinstance(data, Mapping):
        raise ValueError("must hold a JSON object")
    parts: dict[str, Any] = {}
    for name, cls in (("network", NCSNppConfig), ("objective", Objective), ("optimiser", OptimiserConfig)):
        parts[name] = fields_from_json(name, data.get(name), cls, complete=False)
    parts["sde"] = sde_from_json(data.get("sde"), complete=False)
    parametrisation = data.get("parametrisation")
    if isinstance(parametrisation, Mapping) and isinstance(parametrisation.get("prediction"), str):
        parametrisation = parametrisation_from_format_1(parametrisation)  # the config of an older run
    parts["parametrisation"] = parametrisation_from_json(parametrisation)
    plain = {name: value for name, value in data.items() if name not in parts}
    return dataclasses.replace(fields_from_json("config", plain, Config, complete=False), **parts)
