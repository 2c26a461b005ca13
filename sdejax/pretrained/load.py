"""`sdejax.load`: a model from wherever its weights are."""

from pathlib import Path

from sdejax.model.model import Model
from sdejax.model.snapshot import load_snapshot
from sdejax.pretrained.diffusers.pipeline import is_diffusers, read_diffusers
from sdejax.sde.base import SDE


def load(path: str | Path, *, sde: SDE | None = None, size: int | None = None, fir: bool | None = None) -> Model:
    """Read a model.

    **Arguments:**

    - `path`: one of

      - a snapshot folder of this library;
      - a diffusers folder with a `UNet2DModel` of the DDPM or NCSN++ family, and its scheduler;
      - a `.pth` checkpoint of score_sde's PyTorch release, of which the EMA weights are taken;
      - a `.ckpt` file with a DDPM as SDEdit's code loads it;
      - `hf://owner/name@revision`, any of the above in a repository of the Hugging Face hub (extra `hub`).

    - `sde`: the process, for a `.pth` file, which does not say it: VE with the file's levels for Fourier embeddings,
      else `VPSDE()`, unless given.
    - `size`: the images' side, for `.pth` and `.ckpt` files without attention at 16 pixels.
    - `fir`: whether a `.pth` file's network filters as it resamples, where its weights do not show it.

    torch files need the extra `torch`; they are read without executing the pickles in them.

    **Returns:** a `Model`; its `source` is the SHA-256 of the weights' file.

    **Raises:** `ValueError`, naming the path, where it is none of these, a file is missing, cut short or damaged, or
    the weights are not those of an architecture that the library has.
    """
    if str(path).startswith("hf://"):
        from sdejax.pretrained.hub import resolve

        path = resolve(str(path))
        files = sorted(f for f in path.iterdir() if f.suffix in (".pth", ".ckpt"))
        if not (path / "model.json").is_file() and not is_diffusers(path) and len(files) == 1:
            path = files[0]
    path = Path(path)
    if path.suffix == ".pth":
        from sdejax.pretrained.score_sde import read_score_sde

        return read_score_sde(path, sde=sde, fir=fir, size=size)
    if path.suffix == ".ckpt":
        from sdejax.pretrained.ddpm import read_ddpm

        return read_ddpm(path, size=size)
    if path.is_dir() and not (path / "model.json").is_file() and is_diffusers(path):
        return read_diffusers(path)
    return load_snapshot(path)
