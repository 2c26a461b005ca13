"""`sdejax import`: a snapshot from other people's weights."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import tyro
from tyro.conf import Positional

from sdejax.commands.arguments import parse


@dataclasses.dataclass(frozen=True)
class ImportCommand:
    """Turn other people's weights into a snapshot. Its card tells where they are from."""

    verb: ClassVar[str] = "import"
    source: Annotated[Positional[str], tyro.conf.arg(metavar="SRC")]
    """A diffusers folder, a score_sde .pth file, a DDPM .ckpt file, or hf://owner/name@revision."""
    out: Annotated[Positional[str], tyro.conf.arg(metavar="OUT")]
    """The snapshot folder to write."""
    licence: str = ""
    """The licence that the card states. By default what the source states."""
    sde: Literal["vp", "subvp", "ve"] | None = None
    """The process of a .pth file, which does not tell it. By default VE for Fourier embeddings, else VP."""
    size: int | None = None
    """The side of the images, for .pth and .ckpt files without attention at 16 pixels."""
    fir: bool | None = None
    """Whether the network of a .pth file filters when it resamples, if its weights do not tell it."""

    def execute(self) -> int:
        """Read the source and write the snapshot."""
        import sdejax as sj
        from sdejax.pretrained.convert import import_model

        processes = {"vp": sj.VPSDE(), "subvp": sj.SubVPSDE(), "ve": sj.VESDE(0.02, 100.0)}
        model = import_model(
            self.source,
            self.out,
            licence=self.licence,
            sde=processes[self.sde] if self.sde else None,
            size=self.size,
            fir=self.fir,
        )
        print(f"{self.out}: {model.parameter_count / 1e6:.3f} M parameters, {model.sde}, {model.source}")
        return 0


def from_words(words: Sequence[str]) -> ImportCommand:
    """The command that these words ask for."""
    return parse(ImportCommand, words)
