"""The configurations of diffusers' schedulers as processes, and back."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from sdejax.denoiser.prediction import PredictCleanImage, Prediction, PredictNoise, PredictScore, PredictV
from sdejax.model.parametrisation import LevelLabel, LogLevelLabel, Parametrisation, UnitRange
from sdejax.pretrained.files import read_json
from sdejax.sde.base import SDE
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import DiscreteVPSDE

SCHEDULER = "scheduler_config.json"
_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": PredictNoise(),
    "v_prediction": PredictV(),
    "sample": PredictCleanImage(),
}
_DISCRETE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def betas_of(scheduler: dict[str, Any]) -> tuple[float, ...]:
    """The betas of a discrete scheduler's configuration.

    **Raises:** `ValueError` for an unknown schedule.
    """
    trained = scheduler.get("trained_betas")
    if scheduler.get("rescale_betas_zero_snr"):
        raise ValueError("rescale_betas_zero_snr=True: must be False; without it the last level has some signal")
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


def process_of(unet: Path, description: dict[str, Any]) -> tuple[SDE, Parametrisation]:
    """The process, and what the network's output means, from the scheduler's configuration.

    **Arguments:**

    - `unet`: the folder of the network. The scheduler's configuration is in it, or in the folder scheduler beside it.
      If there is none, diffusers' default for such a network is taken, with a warning.
    - `description`: the network's configuration.

    **Raises:** `ValueError` if the scheduler does not fit the network.
    """
    fourier = description.get("time_embedding_type") == "fourier"
    places = (unet / SCHEDULER, unet.parent / "scheduler" / SCHEDULER)
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        guess = "ScoreSdeVeScheduler" if fourier else "DDPMScheduler"
        warnings.warn(f"{unet}: has no {SCHEDULER}; the process is that of {guess}'s defaults", stacklevel=4)
        scheduler: dict[str, Any] = {"_class_name": guess}
    else:
        scheduler = read_json(file, "diffusers")
    name = scheduler.get("_class_name", "DDPMScheduler")
    if fourier != (name == "ScoreSdeVeScheduler"):
        allowed = "ScoreSdeVeScheduler" if fourier else "a scheduler with discrete betas, such as DDPMScheduler"
        raise ValueError(f"scheduler={name!r}: must be {allowed} for this network")
    if fourier:
        smallest, largest = scheduler.get("sigma_min", 0.01), scheduler.get("sigma_max", 1348.0)
        images = UnitRange(bool(description.get("center_input_sample")))
        return VESDE(2.0 * smallest, 2.0 * largest), Parametrisation(PredictScore(), LogLevelLabel(), images)
    if "beta_schedule" not in scheduler and "trained_betas" not in scheduler and file is not None:
        raise ValueError(f"scheduler={name!r}: must have discrete betas, such as DDPMScheduler's")
    if description.get("center_input_sample"):
        raise ValueError("center_input_sample=True: must be False without a ScoreSdeVeScheduler")
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ValueError(f"prediction_type={prediction!r}: must be one of {', '.join(_PREDICTIONS)}")
    sde = DiscreteVPSDE(betas_of(scheduler))
    return sde, Parametrisation(_PREDICTIONS[prediction], LevelLabel(len(sde.betas)))


def scheduler_of(sde: SDE, parametrisation: Parametrisation) -> dict[str, Any]:
    """The configuration of the scheduler for a process.

    **Raises:** `ValueError` if there is none.
    """
    predictions = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
    unit_range = isinstance(parametrisation.images, UnitRange)
    if isinstance(sde, VESDE) and unit_range and parametrisation.prediction == PredictScore():
        return {
            "_class_name": "ScoreSdeVeScheduler",
            "num_train_timesteps": 2000,
            "sigma_min": sde.sigma_min / 2.0,
            "sigma_max": sde.sigma_max / 2.0,
        }
    if (
        isinstance(sde, DiscreteVPSDE)
        and isinstance(parametrisation.condition, LevelLabel)
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
        f"sde={type(sde).__name__}, prediction={parametrisation.prediction!r}: diffusers' layout has only a "
        "DiscreteVPSDE with the noise, v or the clean image, and a VESDE with the score of images in [0, 1]"
    )
