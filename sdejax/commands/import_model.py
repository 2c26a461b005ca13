"""`sdejax import` and `sdejax export`."""

import dataclasses
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional


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


def import_(command: Import) -> int:
    """Read the source and write the snapshot."""
    import sdejax as sj
    from sdejax.pretrained.convert import import_model

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
