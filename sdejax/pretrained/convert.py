"""Import other people's weights as a snapshot with a card; export a snapshot to files that other libraries read."""

import re
from pathlib import Path

from sdejax.model.model import Model
from sdejax.model.snapshot import save
from sdejax.pretrained.diffusers.pipeline import write_diffusers
from sdejax.pretrained.hub import resolve
from sdejax.pretrained.load import load
from sdejax.runtime.files import write_atomically
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
    """Read a model as `sdejax.load` does, and write it as a snapshot with a card.

    **Arguments:**

    - `source`, `sde`, `size`, `fir`: as in `sdejax.load`.
    - `out`: the folder of the snapshot.
    - `licence`: what the card says of the licence. "" takes it from the README.md or LICENSE of the source.

    **Raises:** `ValueError`, with nothing written, if the source cannot be read.
    """
    model = load(source, sde=sde, size=size, fir=fir)
    out = Path(out)
    save(out, model)
    stated = licence or _stated_licence(resolve(source) if source.startswith("hf://") else Path(source))
    write_atomically(out / "README.md", _card(source, model, stated).encode())
    return model


def export_model(snapshot: str | Path, out: str | Path) -> str:
    """Write a model as a snapshot in float32, and in the same folder as diffusers does, if that layout can express it.

    **Returns:** why there is no diffusers folder, or "".
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
    """What the source says of its licence: in the head of its README.md, or in the first line of its LICENSE."""
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
