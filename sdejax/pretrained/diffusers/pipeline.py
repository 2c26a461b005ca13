"""Folders of the diffusers library: a `UNet2DModel` of the DDPM or NCSN++ family and the process of its scheduler.

A folder has model_index.json with unet/ and scheduler/ below it, or config.json, the weights and scheduler_config.json
side by side, or the unet alone.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from sdejax.media.images import write_atomically
from sdejax.model.model import Model
from sdejax.model.parametrisation import Parametrisation
from sdejax.nn.ncsnpp.network import structure
from sdejax.nn.params import from_names, to_names
from sdejax.pretrained.diffusers.unet2d import entries, from_json, to_json
from sdejax.pretrained.files import digest, read_weights, write_safetensors
from sdejax.pretrained.layout import to_ours, to_theirs
from sdejax.sde.base import SDE
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import DiscreteVPSDE

_CONFIG, _WEIGHTS, _SCHEDULER = "config.json", "diffusion_pytorch_model", "scheduler_config.json"
_PREDICTIONS = {"epsilon": "noise", "v_prediction": "v", "sample": "x0"}
_DISCRETE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


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
    description = _json(unet / _CONFIG)
    try:
        config, flip = from_json(description)
        sde, parametrisation = _process(unet, description)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"diffusers={str(path)!r}: {error}") from None
    file = next((f for f in (unet / f"{_WEIGHTS}.safetensors", unet / f"{_WEIGHTS}.bin") if f.is_file()), None)
    if file is None:
        raise ValueError(f"diffusers={str(path)!r}: the file {_WEIGHTS}.safetensors is missing")
    arrays = {_renamed(name): value for name, value in read_weights(file).items()}
    graph, abstract = structure(config)
    try:
        ours = to_ours(entries(config), arrays)
        if flip:
            # Their label is [cos, sin], ours [sin, cos]: the rows of the layer that reads it change places.
            cosine, sine = np.split(ours["embed0.kernel"], 2)
            ours["embed0.kernel"] = np.concatenate([sine, cosine])
        params = from_names(abstract, ours)
    except ValueError as error:
        raise ValueError(f"diffusers={str(path)!r}: {file.name} {error}") from None
    return Model(config, sde, parametrisation, params, None, graph, digest(file))


def write_diffusers(path: str | Path, model: Model) -> None:
    """Write a model as a diffusers folder, which diffusers' pipelines and `read_diffusers` load.

    **Raises:** `ValueError`, with nothing written, where the layout cannot say what the model is.
    """
    description = to_json(model.config, centred=model.parametrisation.centred)
    scheduler = _scheduler(model.sde, model.parametrisation)
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
        (f"scheduler/{_SCHEDULER}", scheduler),
        ("model_index.json", index),
    ):
        write_atomically(folder / name, (json.dumps(content, indent=2) + "\n").encode())


def betas_of(scheduler: dict[str, Any]) -> tuple[float, ...]:
    """The betas that a discrete scheduler's configuration means.

    **Raises:** `ValueError` for a schedule that is not known.
    """
    trained = scheduler.get("trained_betas")
    if scheduler.get("rescale_betas_zero_snr"):
        raise ValueError("rescale_betas_zero_snr=True: not supported, its last level has no signal")
    if trained is not None:
        return tuple(float(beta) for beta in trained)
    scheduler = {**_DISCRETE, **scheduler}
    count, kind = scheduler["num_train_timesteps"], scheduler["beta_schedule"]
    first, last = scheduler["beta_start"], scheduler["beta_end"]
    if kind == "linear":
        betas = np.linspace(first, last, count)
    elif kind == "scaled_linear":
        betas = np.linspace(first**0.5, last**0.5, count) ** 2
    elif kind == "squaredcos_cap_v2":
        # Nichol and Dhariwal 2021: alpha^2 is a squared cosine; betas are capped at 0.999.
        signal = np.cos((np.linspace(0.0, 1.0, count + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1.0 - signal[1:] / signal[:-1], 0.999)
    elif kind == "sigmoid":
        betas = first + (last - first) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, count)))
    else:
        raise ValueError(f"beta_schedule={kind!r}: must be linear, scaled_linear, squaredcos_cap_v2 or sigmoid")
    return tuple(betas.tolist())


def _process(unet: Path, description: dict[str, Any]) -> tuple[SDE, Parametrisation]:
    """The process and what the network's output means, from the scheduler's configuration."""
    fourier = description.get("time_embedding_type") == "fourier"
    places = (unet / _SCHEDULER, unet.parent / "scheduler" / _SCHEDULER)
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        guess = "ScoreSdeVeScheduler" if fourier else "DDPMScheduler"
        warnings.warn(f"{unet}: has no {_SCHEDULER}; taking the process of {guess}'s default", stacklevel=4)
        scheduler: dict[str, Any] = {"_class_name": guess}
    else:
        scheduler = _json(file)
    name = scheduler.get("_class_name", "DDPMScheduler")
    if fourier != (name == "ScoreSdeVeScheduler"):
        allowed = "ScoreSdeVeScheduler" if fourier else "a scheduler with discrete betas, such as DDPMScheduler"
        raise ValueError(f"scheduler={name!r}: must be {allowed} for this network")
    if fourier:
        smallest, largest = scheduler.get("sigma_min", 0.01), scheduler.get("sigma_max", 1348.0)
        centred = bool(description.get("center_input_sample"))
        return VESDE(2.0 * smallest, 2.0 * largest), Parametrisation(
            "score", "log_level", unit_range=True, centred=centred
        )
    if "beta_schedule" not in scheduler and "trained_betas" not in scheduler and file is not None:
        raise ValueError(f"scheduler={name!r}: must have discrete betas, such as DDPMScheduler's")
    if description.get("center_input_sample"):
        raise ValueError("center_input_sample=True: only supported with ScoreSdeVeScheduler")
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ValueError(f"prediction_type={prediction!r}: must be one of {', '.join(_PREDICTIONS)}")
    sde = DiscreteVPSDE(betas_of(scheduler))
    return sde, Parametrisation(_PREDICTIONS[prediction], "level", levels=len(sde.betas))  # pyright: ignore[reportArgumentType]


def _scheduler(sde: SDE, parametrisation: Parametrisation) -> dict[str, Any]:
    """The scheduler configuration that means a process."""
    predictions = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
    if isinstance(sde, VESDE) and parametrisation.unit_range and parametrisation.prediction == "score":
        return {
            "_class_name": "ScoreSdeVeScheduler",
            "num_train_timesteps": 2000,
            "sigma_min": sde.sigma_min / 2.0,
            "sigma_max": sde.sigma_max / 2.0,
        }
    if (
        isinstance(sde, DiscreteVPSDE)
        and parametrisation.condition == "level"
        and parametrisation.prediction in predictions
    ):
        return {
            "_class_name": "DDPMScheduler",
            "num_train_timesteps": len(sde.betas),
            "trained_betas": list(sde.betas),
            "beta_schedule": "linear",
            "variance_type": "fixed_small",
            "prediction_type": predictions[parametrisation.prediction],
        }
    raise ValueError(
        f"sde={type(sde).__name__}, prediction={parametrisation.prediction!r}: diffusers' layout holds discrete "
        "DDPM processes and score networks of VE only"
    )


_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _renamed(name: str) -> str:
    """A weight's name as diffusers writes it today: attention's were others until 2023."""
    parts = name.split(".")
    if len(parts) > 1 and "attentions" in parts:
        parts[-2] = _OLD_NAMES.get(parts[-2], parts[-2])
    return ".".join(parts)


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"diffusers={str(file)!r}: cannot be understood ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"diffusers={str(file)!r}: must hold a JSON object")
    return content
