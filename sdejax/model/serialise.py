"""Models and their parts as plain data, and back.

An object is its class's name and its fields. What is read must be known: an unknown format, class, field or value is an
error, never a default. Format 2 is written; format 1, which had strings in place of the classes of a parametrisation,
is read as well.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import dacite

from sdejax.denoiser.prediction import (
    EDM,
    PredictCleanImage,
    PredictDisplacement,
    Prediction,
    PredictNoise,
    PredictScaledScore,
    PredictScore,
    PredictV,
    PredictVelocity,
)
from sdejax.model.codec import Codec, Identity
from sdejax.model.conditioners import ClassLabels, Conditioner, Unconditional
from sdejax.model.networks import NETWORKS
from sdejax.model.parametrisation import (
    ImageRange,
    Label,
    LevelLabel,
    LogLevelLabel,
    NoiseIndexLabel,
    Parametrisation,
    SymmetricRange,
    TimeLabel,
    UnitRange,
)
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.sde.base import SDE
from sdejax.sde.rectified_flow import RectifiedFlow
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE, DiscreteVPSDE, SubVPSDE
from sdejax.text.vocabulary import Vocabulary

T = TypeVar("T")
FORMAT = 2
_PROCESSES: tuple[type[SDE], ...] = (VPSDE, SubVPSDE, VESDE, RectifiedFlow, DiscreteVPSDE)
_PREDICTIONS: tuple[type[Prediction], ...] = (
    EDM,
    PredictCleanImage,
    PredictDisplacement,
    PredictNoise,
    PredictScaledScore,
    PredictScore,
    PredictV,
    PredictVelocity,
)
_LABELS: tuple[type[Label], ...] = (TimeLabel, LogLevelLabel, LevelLabel, NoiseIndexLabel)
_RANGES: tuple[type[ImageRange], ...] = (SymmetricRange, UnitRange)
_CONDITIONERS: tuple[type[Conditioner], ...] = (Unconditional, ClassLabels, Vocabulary)
_CODECS: tuple[type[Codec], ...] = (Identity,)


class Architecture(NamedTuple):
    """What a model is besides its parameters and their source."""

    network: NCSNppConfig
    sde: SDE
    parametrisation: Parametrisation
    conditioner: Conditioner
    codec: Codec


def object_to_json(value: Any) -> dict[str, Any]:
    """A frozen dataclass as plain data: its class's name and its fields."""
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    return {"class": type(value).__name__, **fields}


def object_from_json(name: str, data: Any, classes: Iterable[type[T]]) -> T:
    """The inverse of `object_to_json`, for one of `classes`; `name` is what errors call it.

    **Raises:** `ValueError` for a class that is not among them, a field that the class does not have, or a value of
    another type or outside its range.
    """
    known = {cls.__name__: cls for cls in classes}
    if not isinstance(data, Mapping):
        raise ValueError(f"{name}={data!r}: must be an object with a class")
    if data.get("class") not in known:
        raise ValueError(f"{name} class={data.get('class')!r}: must be one of {', '.join(known)}")
    fields = {key: value for key, value in data.items() if key != "class"}
    return fields_from_json(name, fields, known[data["class"]])


def fields_from_json(name: str, fields: Any, cls: type[T]) -> T:
    """A dataclass from its fields as JSON has them: lists stand for tuples.

    **Raises:** as `object_from_json`.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"{name}={fields!r}: must be an object")
    try:
        return dacite.from_dict(cls, fields, dacite.Config(cast=[tuple], strict=True))
    except dacite.DaciteError as error:
        raise ValueError(f"{name}: {error}") from None


def sde_to_json(sde: SDE) -> dict[str, Any]:
    """A process as plain data."""
    return object_to_json(sde)


def sde_from_json(data: Any) -> SDE:
    """The inverse of `sde_to_json`."""
    return object_from_json("sde", data, _PROCESSES)


def parametrisation_to_json(parametrisation: Parametrisation) -> dict[str, Any]:
    """A parametrisation as plain data."""
    return {field.name: object_to_json(getattr(parametrisation, field.name)) for field in _parts()}


def parametrisation_from_json(data: Any) -> Parametrisation:
    """The inverse of `parametrisation_to_json`; takes the strings of format 1 as well."""
    if not isinstance(data, Mapping):
        raise ValueError(f"parametrisation={data!r}: must be an object")
    if isinstance(data.get("prediction"), str) or isinstance(data.get("condition"), str):
        return _parametrisation_of_format_1(dict(data))
    if unknown := set(data) - {field.name for field in _parts()}:
        raise ValueError(f"parametrisation: no such field as {min(unknown)!r}")
    kinds = {"prediction": _PREDICTIONS, "condition": _LABELS, "images": _RANGES}
    return Parametrisation(**{name: object_from_json(name, part, kinds[name]) for name, part in data.items()})


def _parts() -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(Parametrisation)


@dataclasses.dataclass(frozen=True)
class _Format1:
    """The parametrisation of format 1. Its "velocity" was e - x0 for every process."""

    prediction: str = "edm"
    condition: str = "log_level"
    data_std: float = 0.5
    levels: int = 1000
    unit_range: bool = False
    centred: bool = True


def _parametrisation_of_format_1(data: dict[str, Any]) -> Parametrisation:
    old = fields_from_json("parametrisation", data, _Format1)
    predictions: dict[str, Prediction] = {
        "noise": PredictNoise(),
        "x0": PredictCleanImage(),
        "v": PredictV(),
        "velocity": PredictDisplacement(),
        "edm": EDM(old.data_std),
        "score": PredictScore(),
        "scaled_score": PredictScaledScore(),
    }
    labels: dict[str, Label] = {
        "time": TimeLabel(),
        "log_level": LogLevelLabel(),
        "level": LevelLabel(old.levels),
        "noise_index": NoiseIndexLabel(old.levels),
    }
    for name, known in (("prediction", predictions), ("condition", labels)):
        if getattr(old, name) not in known:
            raise ValueError(f"{name}={getattr(old, name)!r}: must be one of {', '.join(known)}")
    images = UnitRange(old.centred) if old.unit_range else SymmetricRange()
    return Parametrisation(predictions[old.prediction], labels[old.condition], images)


def architecture_to_json(architecture: Architecture) -> dict[str, Any]:
    """Everything that a model is besides its parameters, as plain data."""
    return {
        "format": FORMAT,
        "network": object_to_json(architecture.network),
        "sde": sde_to_json(architecture.sde),
        "parametrisation": parametrisation_to_json(architecture.parametrisation),
        "conditioner": object_to_json(architecture.conditioner),
        "codec": object_to_json(architecture.codec),
    }


def architecture_from_json(data: Any) -> Architecture:
    """The inverse of `architecture_to_json`; reads format 1 as well.

    **Raises:** `ValueError` for a format, class, field or value that is not known.
    """
    if not isinstance(data, Mapping):
        raise ValueError("must hold a JSON object")
    if data.get("format") == 1:
        data = _from_format_1(data)
    elif data.get("format") != FORMAT:
        raise ValueError(f"format={data.get('format')!r}: must be 1 or {FORMAT}; a newer sdejax may read it")
    names = {"format", "network", "sde", "parametrisation", "conditioner", "codec"}
    if wrong := names ^ set(data):
        raise ValueError(f"{min(wrong)!r}: {'is missing' if min(wrong) in names else 'no such field'}")
    return Architecture(
        object_from_json("network", data["network"], NETWORKS),
        sde_from_json(data["sde"]),
        parametrisation_from_json(data["parametrisation"]),
        object_from_json("conditioner", data["conditioner"], _CONDITIONERS),
        object_from_json("codec", data["codec"], _CODECS),
    )


def _from_format_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """Format 1 had one class of networks, and a vocabulary or none."""
    words, rest = data.get("vocabulary"), {name: value for name, value in data.items() if name != "vocabulary"}
    if not isinstance(data.get("network"), Mapping):
        raise ValueError(f"network={data.get('network')!r}: must be an object")
    return {
        **rest,
        "network": {"class": NCSNppConfig.__name__, **data["network"]},
        "conditioner": {"class": "Unconditional"} if words is None else {"class": "Vocabulary", **words},
        "codec": {"class": "Identity"},
    }
