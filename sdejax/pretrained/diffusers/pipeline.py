"""Folders of the diffusers library: a `UNet2DModel` of the DDPM or NCSN++ family and the process of its scheduler.

A folder has model_index.json with unet/ and scheduler/ below it, or config.json, the weights and scheduler_config.json
side by side, or the unet alone.
"""

import json
from pathlib import Path

import numpy as np

from sdejax.media.images import write_atomically
from sdejax.model.conditioners import ClassLabels, Unconditional
from sdejax.model.model import Model
from sdejax.model.networks import FlaxNetwork
from sdejax.model.parametrisation import UnitRange
from sdejax.nn.params import from_names, to_names
from sdejax.pretrained.diffusers.scheduler import SCHEDULER, process_of, scheduler_of
from sdejax.pretrained.diffusers.unet2d import entries, from_json, to_json
from sdejax.pretrained.files import digest, read_json, read_weights, write_safetensors
from sdejax.pretrained.layout import to_ours, to_theirs

_CONFIG, _WEIGHTS = "config.json", "diffusion_pytorch_model"


def is_diffusers(folder: Path) -> bool:
    """Whether a folder is laid out as diffusers does it."""
    return any((folder / name).is_file() for name in ("model_index.json", _CONFIG, f"unet/{_CONFIG}"))


def read_diffusers(path: str | Path) -> Model:
    """The model in a diffusers folder, its process that of the scheduler.

    A DDPM's betas become a `DiscreteVPSDE`, its levels the network's label. A score_sde_ve scheduler counts noise
    levels on images in [0, 1]; ours are in [-1, 1], so the levels of the `VESDE` are twice as large.

    **Raises:** `ValueError` where a file is missing or damaged, or the architecture or scheduler is not of the family.
    """
    folder = Path(path)
    unet = folder / "unet" if (folder / "unet" / _CONFIG).is_file() else folder
    if not (unet / _CONFIG).is_file():
        raise ValueError(f"diffusers={str(path)!r}: neither {_CONFIG} nor unet/{_CONFIG} is there")
    description = read_json(unet / _CONFIG, "diffusers")
    try:
        config, flip = from_json(description)
        sde, parametrisation = process_of(unet, description)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"diffusers={str(path)!r}: {error}") from None
    file = next((f for f in (unet / f"{_WEIGHTS}.safetensors", unet / f"{_WEIGHTS}.bin") if f.is_file()), None)
    if file is None:
        raise ValueError(f"diffusers={str(path)!r}: the file {_WEIGHTS}.safetensors is missing")
    arrays = {_renamed(name): value for name, value in read_weights(file).items()}
    try:
        ours = to_ours(entries(config), arrays)
        if flip:
            # Their label is [cos, sin], ours [sin, cos]: the rows of the layer that reads it change places.
            cosine, sine = np.split(ours["embed0.kernel"], 2)
            ours["embed0.kernel"] = np.concatenate([sine, cosine])
        params = from_names(FlaxNetwork.abstract(config).params, ours)
    except ValueError as error:
        raise ValueError(f"diffusers={str(path)!r}: {file.name} {error}") from None
    conditioner = ClassLabels(tuple(map(str, range(config.classes))), null=False) if config.classes else Unconditional()
    return Model(FlaxNetwork(config, params), sde, parametrisation, conditioner, source=digest(file))


def write_diffusers(path: str | Path, model: Model) -> None:
    """Write a model as a diffusers folder, which diffusers' pipelines and `read_diffusers` load.

    **Raises:** `ValueError`, with nothing written, where the layout cannot say what the model is.
    """
    images = model.parametrisation.images
    description = to_json(model.config, centred=not isinstance(images, UnitRange) or images.centred)
    scheduler = scheduler_of(model.sde, model.parametrisation)
    arrays = {name: np.asarray(value) for name, value in to_names(model.params).items()}
    folder = Path(path)
    pipeline = "ScoreSdeVePipeline" if scheduler["_class_name"] == "ScoreSdeVeScheduler" else "DDPMPipeline"
    index = {
        "_class_name": pipeline,
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "unet": ["diffusers", "UNet2DModel"],
    }
    for name in ("unet", "scheduler"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "unet" / f"{_WEIGHTS}.safetensors", to_theirs(entries(model.config), arrays))
    for name, content in (
        (f"unet/{_CONFIG}", description),
        (f"scheduler/{SCHEDULER}", scheduler),
        ("model_index.json", index),
    ):
        write_atomically(folder / name, (json.dumps(content, indent=2) + "\n").encode())


_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _renamed(name: str) -> str:
    """A weight's name as diffusers writes it today: attention's were others until 2023."""
    parts = name.split(".")
    if len(parts) > 1 and "attentions" in parts:
        parts[-2] = _OLD_NAMES.get(parts[-2], parts[-2])
    return ".".join(parts)
