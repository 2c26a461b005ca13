"""Weights in and out: other people's files to a snapshot with a card, and a snapshot to files that others read."""

import re
from pathlib import Path

from sdejax.media.images import write_atomically
from sdejax.model.model import Model
from sdejax.model.snapshot import save
from sdejax.pretrained.diffusers.pipeline import write_diffusers
from sdejax.pretrained.hub import resolve
from sdejax.pretrained.load import load
from sdejax.sde.base import SDE


def import_model(
    source: str,
    out: str | Path,
    *,
    licence: str = "",
    sde: SDE | None = None,
    size: int | None = None,
    fir: bool | None = None,
) -> Model:
    """Read what `sdejax.load` reads and write it as a snapshot, whose card says where it is from.

    The licence is what the source's README.md or LICENSE says, unless given.

    **Raises:** `ValueError`, with nothing written, where the source cannot be read.
    """
    model = load(source, sde=sde, size=size, fir=fir)
    out = Path(out)
    save(out, model)
    stated = licence or _stated_licence(resolve(source) if source.startswith("hf://") else Path(source))
    write_atomically(out / "README.md", _card(source, model, stated).encode())
    return model


def export_model(snapshot: str | Path, out: str | Path) -> str:
    """Write a model as safetensors by our names (a snapshot), and as a diffusers folder where its layout can hold it.

    Returns "", or why there is no diffusers folder.
    """
    model = load(snapshot)
    reason = ""
    try:
        write_diffusers(out, model)
    except ValueError as error:
        reason = str(error)
    save(out, model)
    return reason


def _stated_licence(source: Path) -> str:
    """What the source says of its licence: the head of its README.md, or the first line of its LICENSE."""
    for folder in (source, source.parent):
        readme, licence = folder / "README.md", folder / "LICENSE"
        if readme.is_file():
            head = readme.read_text(encoding="utf-8", errors="replace")[:4000]
            if found := re.search(r"^(?:license:|\| Licence \|)\s*([^|\n]+)", head, re.MULTILINE):
                return found[1].strip()
        if licence.is_file():
            lines = licence.read_text(encoding="utf-8", errors="replace").splitlines()
            return next((line.strip() for line in lines if line.strip()), "")
    return ""


def _card(source: str, model: Model, licence: str) -> str:
    height, width, _ = model.shape
    return f"""# {Path(source).name or source}

{model.parameter_count / 1e6:.3f} M parameters, {height} x {width}. Imported; not trained here.

| | |
|---|---|
| Source | {source} |
| Weights | {model.source} |
| Licence | {licence or "not stated by the source: ask its authors before sharing"} |
| Process | {model.sde} |
| Parametrisation | {model.parametrisation} |
"""
