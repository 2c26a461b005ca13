"""Snapshots of format 1, rewritten as format 2.

Format 1 had one class of networks, a vocabulary or none, and strings in place of a parametrisation's classes. Its
"velocity" meant e - x0 for every process, which is `PredictDisplacement` now. Fields that it does not have are at their
defaults.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from sdejax.denoiser.prediction import (
    EDM,
    PredictCleanImage,
    PredictDisplacement,
    PredictNoise,
    PredictScaledScore,
    PredictScore,
    PredictV,
)
from sdejax.model.codec import Identity
from sdejax.model.conditioners import Unconditional
from sdejax.model.json_objects import fields_from_json, object_to_json
from sdejax.model.parametrisation import (
    LevelLabel,
    LogLevelLabel,
    NoiseIndexLabel,
    SymmetricRange,
    TimeLabel,
    UnitRange,
)
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class _Parametrisation:
    """The parametrisation of format 1."""

    prediction: Literal["noise", "x0", "v", "velocity", "edm", "score", "scaled_score"] = "edm"
    condition: Literal["time", "log_level", "level", "noise_index"] = "log_level"
    data_std: float = 0.5
    levels: int = 1000
    unit_range: bool = False
    centred: bool = True


def from_format_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """The plain data of a model, rewritten from format 1 to format 2.

    **Raises:** `ValueError` if a part is missing or unknown, or if the parametrisation is not one of format 1.
    """
    names = ("format", "network", "sde", "parametrisation", "vocabulary")
    for name in data:
        if name not in names:
            raise ValueError(f"{name}: no such field; the fields of format 1 are {', '.join(names)}")
    for name in names:
        if name not in data:
            raise ValueError(f"{name}: is missing")
    if not isinstance(data["network"], Mapping):
        raise ValueError(f"network={data['network']!r}: must be an object")
    words = data["vocabulary"]
    if words is not None and not isinstance(words, Mapping):
        raise ValueError(f"vocabulary={words!r}: must be an object, or null")
    return {
        "format": 2,
        "network": {"class": NCSNppConfig.__name__, **data["network"]},
        "sde": data["sde"],
        "parametrisation": parametrisation_from_format_1(data["parametrisation"]),
        "conditioner": object_to_json(Unconditional()) if words is None else {"class": Vocabulary.__name__, **words},
        "codec": object_to_json(Identity()),
    }


def parametrisation_from_format_1(data: Any) -> dict[str, Any]:
    """The plain data of a parametrisation, rewritten from format 1 to format 2.

    **Raises:** `ValueError` if it is not a parametrisation of format 1.
    """
    old = fields_from_json("parametrisation", data, _Parametrisation, complete=False)
    prediction = {
        "noise": PredictNoise(),
        "x0": PredictCleanImage(),
        "v": PredictV(),
        "velocity": PredictDisplacement(),
        "edm": EDM(old.data_std),
        "score": PredictScore(),
        "scaled_score": PredictScaledScore(),
    }[old.prediction]
    condition = {
        "time": TimeLabel(),
        "log_level": LogLevelLabel(),
        "level": LevelLabel(old.levels),
        "noise_index": NoiseIndexLabel(old.levels),
    }[old.condition]
    images = UnitRange(old.centred) if old.unit_range else SymmetricRange()
    parts = {"prediction": prediction, "condition": condition, "images": images}
    return {name: object_to_json(part) for name, part in parts.items()}
