"""The command line: thin shells over the library. Bad input is one sentence and exit code 2, with nothing written."""

import dataclasses
import importlib.metadata
import json
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from sdejax.arguments import FLAT, parse

_USAGE = """usage: sdejax VERB ...

  edit    a guide (strokes, a composite, a photo) to an image of the model: SDEdit
  sync    an image by what two prompts differ in: sync-SDE
  sample  images from noise
  train   a model on a folder of images
  import  other people's weights to a snapshot: diffusers, score_sde, DDPM, hf://
  export  a snapshot to safetensors, and to a diffusers folder
  env     versions, devices, what is optional and missing

sdejax VERB --help lists a verb's options."""


@dataclasses.dataclass(frozen=True)
class Run:
    """How a command solves, and where it writes."""

    out: str = "out"
    """The folder to write: one PNG per seed with its JSON, and a contact sheet."""
    seeds: str = "0"
    """Seeds such as 7, 0-63 or 0-3,8; an image is its seed."""
    steps: int = 50
    """Solver steps, at least 1."""
    stochasticity: float = 1.0
    """1 solves the reverse SDE, 0 the probability-flow ODE."""
    grid: Literal["log_snr", "time", "edm"] = "log_snr"
    """Where the steps lie."""
    order: Literal[1, 2] = 2
    """Order of the exponential solver."""
    batch: int = 32
    """How many images are computed at once."""
    json: bool = False
    """One JSON object per image on standard output, for machines."""


_Snapshot = Annotated[Positional[str], tyro.conf.arg(metavar="SNAPSHOT")]
_Picture = Annotated[Positional[str], tyro.conf.arg(metavar="PICTURE")]
_Run = Annotated[Run, tyro.conf.arg(name="")]


@dataclasses.dataclass(frozen=True)
class Edit:
    """SDEdit: noise on a guide up to `strength`, then the reverse SDE. More is more realistic, less more faithful."""

    snapshot: _Snapshot
    """A snapshot folder."""
    guide: _Picture
    """An image of any size; the result has its size."""
    strength: float = 0.5
    """The time in (0, 1] that the edit starts from."""
    mask: str | None = None
    """An image of the guide's size: white is edited, black is kept bit for bit, grey is edited less."""
    repeats: int = 1
    """How often the result is fed back as the guide."""
    prompt: str = ""
    """What to edit towards, for a model with text."""
    guidance: float | None = None
    """Classifier-free guidance scale for the prompt."""
    run: _Run = dataclasses.field(default=Run(), metadata=FLAT)


@dataclasses.dataclass(frozen=True)
class Sync:
    """sync-SDE: edit an image by what two prompts differ in, and keep the rest."""

    snapshot: _Snapshot
    """A snapshot folder of a model with text."""
    image: _Picture
    """An image of any size; the result has its size."""
    source: str
    """What the image shows."""
    target: str
    """What it should show."""
    strength: float = 0.8
    """The time in (0, 1] that the edit starts from; more changes more."""
    mask: str | None = None
    """An image of the image's size: white is edited, black is kept bit for bit, grey is edited less."""
    source_guidance: float | None = None
    """Classifier-free guidance scale for the source."""
    target_guidance: float | None = None
    """Classifier-free guidance scale for the target."""
    coupling: str = "synchronous"
    """synchronous, resampled, resampled(N), independent, correlated(RHO) or reflection."""
    run: _Run = dataclasses.field(default=Run(), metadata=FLAT)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Images from noise."""

    snapshot: _Snapshot
    """A snapshot folder."""
    prompt: str = ""
    """What to draw, for a model with text."""
    guidance: float | None = None
    """Classifier-free guidance scale for the prompt."""
    run: _Run = dataclasses.field(default=Run(), metadata=FLAT)


@dataclasses.dataclass(frozen=True)
class Import:
    """Other people's weights to a snapshot, whose card says where they are from."""

    source: Annotated[Positional[str], tyro.conf.arg(metavar="SRC")]
    """A diffusers folder, a score_sde .pth, a DDPM .ckpt, or hf://owner/name@revision."""
    out: Annotated[Positional[str], tyro.conf.arg(metavar="OUT")]
    """The snapshot folder to write."""
    licence: str = ""
    """What the card says of the licence, where the source does not."""
    sde: Literal["vp", "subvp", "ve"] | None = None
    """The process of a .pth file, which does not say it; by default VE for Fourier embeddings, else VP."""
    size: int | None = None
    """The images' side, for .pth and .ckpt files without attention at 16 pixels."""
    fir: bool | None = None
    """Whether a .pth file's network filters as it resamples, where its weights do not show it."""


@dataclasses.dataclass(frozen=True)
class Export:
    """A snapshot to safetensors by readable names, and to a diffusers folder where that layout can hold it."""

    snapshot: _Snapshot
    """A snapshot folder, or anything that import reads."""
    out: Annotated[Positional[str], tyro.conf.arg(metavar="OUT")]
    """The folder to write."""


@dataclasses.dataclass(frozen=True)
class Env:
    """Versions, devices, and what is optional and missing."""

    json: bool = False
    """One JSON object, for machines."""


def parse_seeds(text: str) -> list[int]:
    """ "7", "0-63" or "0-3,8" to seeds.

    **Raises:** `ValueError` for anything else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if first > last or last >= 2**32:
            raise ValueError(f"--seeds={text!r}: must be seeds from 0 to {2**32 - 1}, such as 7, 0-63 or 0-3,8")
        seeds.extend(range(first, last + 1))
    return seeds


def _edit(command: Edit) -> int:
    import sdejax as sj
    from sdejax.produce import Input, produce

    seeds, sampler = parse_seeds(command.run.seeds), _sampler(command.run)
    model = sj.load(command.snapshot)
    denoiser = model.denoiser(command.prompt, command.guidance)
    guide = Input(command.guide, command.mask, model.shape)

    def compute(keys):
        return sj.sdedit(
            denoiser,
            model.sde,
            guide.image,
            keys,
            strength=command.strength,
            mask=guide.mask,
            repeats=command.repeats,
            sampler=sampler,
        )

    return produce(command, model, seeds, compute, guide.replaced, guide.shown)


def _sync(command: Sync) -> int:
    import sdejax as sj
    from sdejax.produce import Input, produce

    seeds, sampler = parse_seeds(command.run.seeds), _sampler(command.run)
    model = sj.load(command.snapshot)
    source = model.denoiser(command.source, command.source_guidance)
    target = model.denoiser(command.target, command.target_guidance)
    given = Input(command.image, command.mask, model.shape)

    def compute(keys):
        return sj.sync_sde(
            source,
            target,
            model.sde,
            given.image,
            keys,
            strength=command.strength,
            mask=given.mask,
            sampler=sampler,
            coupling=command.coupling,
        )

    return produce(command, model, seeds, compute, given.changed, given.shown)


def _sample(command: Sample) -> int:
    import sdejax as sj
    from sdejax.images import to_image
    from sdejax.produce import produce

    seeds, sampler = parse_seeds(command.run.seeds), _sampler(command.run)
    model = sj.load(command.snapshot)
    denoiser = model.denoiser(command.prompt, command.guidance)

    def compute(keys):
        return sj.sample(denoiser, model.sde, keys, model.shape, sampler=sampler)

    return produce(command, model, seeds, compute, to_image, [])


def _import(command: Import) -> int:
    import sdejax as sj
    from sdejax.transfer import import_model

    processes = {"vp": sj.VPSDE(), "subvp": sj.SubVPSDE(), "ve": sj.VESDE(0.02, 100.0)}
    model = import_model(
        command.source,
        command.out,
        licence=command.licence,
        sde=processes[command.sde] if command.sde else None,
        size=command.size,
        fir=command.fir,
    )
    print(f"{command.out}: {model.parameter_count / 1e6:.3f} M parameters, {model.sde}, {model.source}")
    return 0


def _export(command: Export) -> int:
    from sdejax.transfer import export_model

    reason = export_model(command.snapshot, command.out)
    print(f"{command.out}: " + (f"safetensors; no diffusers folder: {reason}" if reason else "safetensors, diffusers"))
    return 0


def _sampler(run: Run) -> Any:
    import sdejax as sj

    if run.batch < 1:
        raise ValueError(f"--batch={run.batch}: must be at least 1")
    return sj.Sampler(run.steps, run.grid, sj.Exponential(run.order), run.stochasticity)


def _env(command: Env) -> int:
    import platform

    import jax

    names = ("sdejax", "jax", "jaxlib", "diffrax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")
    found: dict[str, Any] = {"python": platform.python_version()}
    found |= {name: _version(name) for name in names}
    found["backend"] = jax.default_backend()
    found["devices"] = [f"{device.device_kind} {device.id}" for device in jax.devices()]
    missing = {name: use for name, use in _OPTIONAL.items() if _version(name) is None}
    if command.json:
        print(json.dumps({**found, "optional_missing": missing}))
        return 0
    for name, value in found.items():
        print(f"{name:18} {', '.join(value) if isinstance(value, list) else value or 'missing'}")
    for name, use in missing.items():
        print(f"{name:18} missing, optional: {use}")
    return 0


_OPTIONAL = {
    "torch": "reading .pth, .ckpt and .bin files, pip install sdejax[torch]",
    "huggingface_hub": "hf:// addresses, sdejax[hub]",
    "pyarrow": "training on parquet and arrow files, sdejax[data]",
    "matplotlib": "the curves of a bundled snapshot's card, sdejax[card]",
    "diffusers": "make parity and benchmarks/network.py, sdejax[bench]",
    "pytest": "tests, pip install sdejax[test]",
    "ruff": "lint, sdejax[test]",
    "pyright": "types, sdejax[test]",
}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


_VERBS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "edit": (Edit, _edit),
    "sync": (Sync, _sync),
    "sample": (Sample, _sample),
    "import": (Import, _import),
    "export": (Export, _export),
    "env": (Env, _env),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 2 for bad input, 130 where the person stopped it."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    verb, rest = arguments[0], arguments[1:]
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        if verb == "--version":
            print(_version("sdejax"))
            return 0
        if verb == "train":
            from train.command import main as train

            return train(rest)
        if verb not in _VERBS:
            verbs = [*_VERBS, "train"]
            raise ValueError(f"{verb!r}: no such verb; the verbs are {', '.join(verbs)}")
        command, action = _VERBS[verb]
        return action(parse(command, f"sdejax {verb}", rest))
    except (ValueError, OSError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
