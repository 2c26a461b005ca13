"""Folders of the diffusers library: a `UNet2DModel` of the DDPM or NCSN++ family, and the process of its scheduler.

There are three forms: a pipeline, with model_index.json, unet/ and scheduler/; config.json, the weights and
scheduler_config.json side by side; or the unet alone.

The classes of a class-conditional network are numbers. Their names are in `id2label` of model_index.json, as in the
pipeline of DiT. If the network has one class more than names, the last means no class.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdejax.model.conditioners import ClassLabels, Conditioner, Unconditional
from sdejax.model.model import Model
from sdejax.model.networks import FlaxNetwork
from sdejax.model.parametrisation import UnitRange
from sdejax.nn.params import from_names, to_names
from sdejax.pretrained.diffusers.scheduler import SCHEDULER, process_of, scheduler_of
from sdejax.pretrained.diffusers.unet2d import entries, from_json, to_json
from sdejax.pretrained.files import digest, read_json, read_weights, write_safetensors
from sdejax.pretrained.layout import to_ours, to_theirs
from sdejax.pretrained.weights_layout import LoadOptions
from sdejax.runtime.files import write_atomically

_CONFIG, _INDEX, _WEIGHTS = "config.json", "model_index.json", "diffusion_pytorch_model"


class DiffusersLayout:
    """Folders of diffusers."""

    description = "a diffusers folder with a UNet2DModel"

    def reads(self, path: Path) -> bool:
        """Whether a folder has one of the three forms."""
        return any((path / name).is_file() for name in (_INDEX, _CONFIG, f"unet/{_CONFIG}"))

    def read(self, path: Path, options: LoadOptions) -> Model:
        """Read the folder, which says everything itself."""
        return read_diffusers(path)


def read_diffusers(path: str | Path) -> Model:
    """The model in a diffusers folder. Its process is that of the scheduler.

    The betas of a DDPM become a `DiscreteVPSDE`, and its label is the number of the level. The noise levels of a
    score_sde_ve scheduler are those for images in [0, 1]. Ours are for images in [-1, 1], so the `VESDE` has twice as
    large ones.

    **Raises:** `ValueError` that names the path, if a file is missing or damaged, or if the architecture or the
    scheduler is not of the family.
    """
    folder, named = Path(path), f"diffusers={str(path)!r}"
    unet = folder / "unet" if (folder / "unet" / _CONFIG).is_file() else folder
    if not (unet / _CONFIG).is_file():
        raise ValueError(f"{named}: has neither {_CONFIG} nor unet/{_CONFIG}")
    description = read_json(unet / _CONFIG, "diffusers")
    try:
        config, flip = from_json(description)
        sde, parametrisation = process_of(unet, description)
        conditioner = _conditioner(config.classes, folder / _INDEX)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{named}: {error}") from None
    file = next((f for f in (unet / f"{_WEIGHTS}.safetensors", unet / f"{_WEIGHTS}.bin") if f.is_file()), None)
    if file is None:
        raise ValueError(f"{named}: the file {_WEIGHTS}.safetensors is missing")
    arrays = {_renamed(name): value for name, value in read_weights(file).items()}
    try:
        ours = to_ours(entries(config), arrays)
        if flip:
            # Their label is [cos, sin], ours is [sin, cos], so the rows of the layer that reads it change places.
            cosine, sine = np.split(ours["embed0.kernel"], 2)
            ours["embed0.kernel"] = np.concatenate([sine, cosine])
        params = from_names(FlaxNetwork.abstract(config).params, ours)
    except ValueError as error:
        raise ValueError(f"{named}: {file.name} {error}") from None
    return Model(FlaxNetwork(config, params), sde, parametrisation, conditioner, source=digest(file))


def write_diffusers(path: str | Path, model: Model) -> None:
    """Write a model as a diffusers folder, which diffusers and `read_diffusers` load.

    **Raises:** `ValueError`, with nothing written, if the layout cannot express the model.
    """
    images = model.parametrisation.images
    description = to_json(model.config, centred=not isinstance(images, UnitRange) or images.centred)
    scheduler = scheduler_of(model.sde, model.parametrisation)
    arrays = {name: np.asarray(value) for name, value in to_names(model.params).items()}
    folder = Path(path)
    pipeline = "ScoreSdeVePipeline" if scheduler["_class_name"] == "ScoreSdeVeScheduler" else "DDPMPipeline"
    index: dict[str, Any] = {
        "_class_name": pipeline,
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "unet": ["diffusers", "UNet2DModel"],
    }
    if isinstance(model.conditioner, ClassLabels) and model.conditioner != _numbered(model.config.classes):
        index["id2label"] = {str(number): name for number, name in enumerate(model.conditioner.names)}
    for name in ("unet", "scheduler"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "unet" / f"{_WEIGHTS}.safetensors", to_theirs(entries(model.config), arrays))
    for name, content in ((f"unet/{_CONFIG}", description), (f"scheduler/{SCHEDULER}", scheduler), (_INDEX, index)):
        write_atomically(folder / name, (json.dumps(content, indent=2) + "\n").encode())


def _conditioner(classes: int, index: Path) -> Conditioner:
    """The classes of a network, with the names in model_index.json if it has any."""
    if not classes:
        return Unconditional()
    labels = read_json(index, "diffusers").get("id2label") if index.is_file() else None
    if labels is None:
        return _numbered(classes)
    count = len(labels) if isinstance(labels, Mapping) else 0
    if count not in (classes - 1, classes) or any(not isinstance(labels.get(str(n)), str) for n in range(count)):
        raise ValueError(f"id2label: must have a name for each of the {classes} classes, or for all but the last")
    return ClassLabels(tuple(labels[str(number)] for number in range(count)), null=count < classes)


def _numbered(classes: int) -> ClassLabels:
    """Classes whose names are their numbers."""
    return ClassLabels(tuple(map(str, range(classes))), null=False)


_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _renamed(name: str) -> str:
    """A weight's name as diffusers writes it today. Until 2023 the names in attention blocks were others."""
    parts = name.split(".")
    if len(parts) > 1 and "attentions" in parts:
        parts[-2] = _OLD_NAMES.get(parts[-2], parts[-2])
    return ".".join(parts)
