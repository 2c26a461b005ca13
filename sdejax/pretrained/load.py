"""`sdejax.load`: a model from its weights, in any of the layouts in `LAYOUTS`."""

from pathlib import Path

from sdejax.model.model import Model
from sdejax.model.snapshot import is_snapshot, load_snapshot
from sdejax.pretrained.ddpm import DDPMLayout
from sdejax.pretrained.diffusers.pipeline import DiffusersLayout
from sdejax.pretrained.score_sde import ScoreSDELayout
from sdejax.pretrained.weights_layout import LoadOptions, WeightsLayout
from sdejax.sde.base import SDE


class SnapshotLayout:
    """Snapshots of this library (`sdejax.model.snapshot`)."""

    description = "a snapshot folder with model.json"

    def reads(self, path: Path) -> bool:
        """Whether it is a folder with model.json."""
        return is_snapshot(path)

    def read(self, path: Path, options: LoadOptions) -> Model:
        """Read the snapshot, which says everything itself."""
        return load_snapshot(path)


# The first that reads a path is taken. `sdejax export` writes a snapshot and a diffusers folder into one folder.
LAYOUTS: tuple[WeightsLayout, ...] = (SnapshotLayout(), DiffusersLayout(), ScoreSDELayout(), DDPMLayout())


def load(path: str | Path, *, sde: SDE | None = None, size: int | None = None, fir: bool | None = None) -> Model:
    """Read a model.

    **Arguments:**

    - `path`: one of

      - a snapshot folder of this library;
      - a diffusers folder with a `UNet2DModel` of the DDPM or NCSN++ family, and its scheduler;
      - a `.pth` checkpoint of score_sde's PyTorch release; its averaged weights (EMA) are taken;
      - a `.ckpt` file with a DDPM, as SDEdit's code loads it;
      - `hf://owner/name@revision`, a repository of the Hugging Face Hub with one of these (extra `hub`).

    - `sde`: the process that a `.pth` file's network was trained on, which the file does not say. None is `VESDE` with
      the file's noise levels for a network with Fourier features, and else `VPSDE()`.
    - `size`: the side of the images, for `.pth` and `.ckpt` files without attention at 16 pixels.
    - `fir`: whether a `.pth` file's network filters as it resamples, if its weights do not show it.

    PyTorch files need the extra `torch`. They are read without running the code that may be in them.

    **Returns:** a `Model`. Its `source` is the SHA-256 of the file of weights.

    **Raises:** `ValueError` that names the path, if it is none of these, if a file is missing, cut short or damaged, or
    if the weights are not those of an architecture that this library has.
    """
    found = _downloaded(str(path)) if str(path).startswith("hf://") else Path(path)
    layout = _layout_of(found)
    if layout is None:
        fault = "cannot be read" if found.exists() else "no such folder"
        known = ", ".join(layout.description for layout in LAYOUTS)
        raise ValueError(f"snapshot={str(path)!r}: {fault}; must be one of: {known}")
    return layout.read(found, LoadOptions(sde, size, fir))


def _layout_of(path: Path) -> WeightsLayout | None:
    return next((layout for layout in LAYOUTS if layout.reads(path)), None)


def _downloaded(address: str) -> Path:
    """The folder of a repository of the Hub, or the one file of weights in it."""
    from sdejax.pretrained.hub import resolve

    folder = resolve(address)
    if _layout_of(folder) is not None:
        return folder
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and _layout_of(file) is not None]
    return files[0] if len(files) == 1 else folder
