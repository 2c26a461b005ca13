"""Models and their parts as plain data, and back.

Whatever is read must be known and complete: an unknown format, class, field or value is an error, and so is a missing
field. Nothing is replaced by a default. A change of what is written, such as a new field of a class, is a new format.
Format 2 is written; format 1 is read as well (`sdejax.model.format_1`).

A class that models may have is one line in one of the lists below, and for networks in `sdejax.model.networks`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sdejax.denoiser.prediction import Prediction
from sdejax.model.codec import Codec, Identity
from sdejax.model.conditioners import ClassLabels, Conditioner, Unconditional
from sdejax.model.format_1 import from_format_1
from sdejax.model.json_objects import object_from_json, object_to_json
from sdejax.model.networks import NETWORKS
from sdejax.model.parametrisation import CONVENTIONS, ImageRange, Label, Parametrisation
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.sde.base import SDE
from sdejax.sde.rectified_flow import RectifiedFlow
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE, DiscreteVPSDE, SubVPSDE
from sdejax.text.vocabulary import Vocabulary

FORMAT = 2
PROCESSES: tuple[type[SDE], ...] = (VPSDE, SubVPSDE, VESDE, RectifiedFlow, DiscreteVPSDE)
_CLASSES = dict.fromkeys(CONVENTIONS.values())  # each once, although some have two names
PREDICTIONS = [kind for kind in _CLASSES if issubclass(kind, Prediction)]
LABELS = [kind for kind in _CLASSES if issubclass(kind, Label)]
IMAGE_RANGES = [kind for kind in _CLASSES if issubclass(kind, ImageRange)]
CONDITIONERS: tuple[type[Conditioner], ...] = (Unconditional, ClassLabels, Vocabulary)
CODECS: tuple[type[Codec], ...] = (Identity,)


class Architecture(NamedTuple):
    """Everything that a model is except its parameters and their source."""

    network: NCSNppConfig
    sde: SDE
    parametrisation: Parametrisation
    conditioner: Conditioner
    codec: Codec


def sde_to_json(sde: SDE) -> dict[str, Any]:
    """A process as plain data."""
    return object_to_json(sde)


def sde_from_json(data: Any, *, complete: bool = True) -> SDE:
    """The inverse of `sde_to_json`. If not `complete`, missing fields are at their defaults."""
    return object_from_json("sde", data, PROCESSES, complete=complete)


def parametrisation_to_json(parametrisation: Parametrisation) -> dict[str, Any]:
    """A parametrisation as plain data."""
    return {
        "prediction": object_to_json(parametrisation.prediction),
        "condition": object_to_json(parametrisation.condition),
        "images": object_to_json(parametrisation.images),
    }


def parametrisation_from_json(data: Any) -> Parametrisation:
    """The inverse of `parametrisation_to_json`."""
    _check_names("parametrisation.", data, ("prediction", "condition", "images"))
    return Parametrisation(
        object_from_json("prediction", data["prediction"], PREDICTIONS),
        object_from_json("condition", data["condition"], LABELS),
        object_from_json("images", data["images"], IMAGE_RANGES),
    )


def architecture_to_json(architecture: Architecture) -> dict[str, Any]:
    """A model without its parameters, as plain data."""
    return {
        "format": FORMAT,
        "network": object_to_json(architecture.network),
        "sde": sde_to_json(architecture.sde),
        "parametrisation": parametrisation_to_json(architecture.parametrisation),
        "conditioner": object_to_json(architecture.conditioner),
        "codec": object_to_json(architecture.codec),
    }


def architecture_from_json(data: Any) -> Architecture:
    """The inverse of `architecture_to_json`. Also reads format 1.

    **Raises:** `ValueError` if the format, a class, a field or a value is unknown, if a field is missing, or if the
    prompts do not fit the network.
    """
    if not isinstance(data, Mapping):
        raise ValueError("must hold a JSON object")
    number = data.get("format")
    if type(number) is not int or not 1 <= number <= FORMAT:
        raise ValueError(f"format={number!r}: must be a whole number from 1 to {FORMAT}; a newer sdejax may read it")
    complete = number == FORMAT
    if number == 1:
        data = from_format_1(data)
    _check_names("", data, ("format", *Architecture._fields))
    found = Architecture(
        object_from_json("network", data["network"], NETWORKS, complete=complete),
        sde_from_json(data["sde"], complete=complete),
        parametrisation_from_json(data["parametrisation"]),
        object_from_json("conditioner", data["conditioner"], CONDITIONERS, complete=complete),
        object_from_json("codec", data["codec"], CODECS, complete=complete),
    )
    _check_conditioner(found)
    return found


def _check_names(prefix: str, data: Any, names: tuple[str, ...]) -> None:
    """**Raises:** `ValueError` if an object lacks one of `names`, or has another."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{prefix.rstrip('.')}={data!r}: must be an object")
    for name in data:
        if name not in names:
            raise ValueError(f"{prefix}{name}: no such field; the fields are {', '.join(names)}")
    for name in names:
        if name not in data:
            raise ValueError(f"{prefix}{name}: is missing")


def _check_conditioner(found: Architecture) -> None:
    """**Raises:** `ValueError` if the network has another number of classes or words than its conditioner."""
    network, conditioner = found.network, found.conditioner
    if not isinstance(network, NCSNppConfig):
        return  # networks of other classes have fields of their own
    classes = conditioner.size if isinstance(conditioner, ClassLabels) else 0
    vocabulary, words = (conditioner.size, conditioner.length) if isinstance(conditioner, Vocabulary) else (0, 0)
    if network.classes != classes:
        raise ValueError(f"network.classes={network.classes}: must be {classes}, as its conditioner has")
    if network.words != words or (words and network.vocabulary != vocabulary):
        raise ValueError(
            f"network.words={network.words}, network.vocabulary={network.vocabulary}: must be {words} and {vocabulary},"
            " as its conditioner has"
        )
