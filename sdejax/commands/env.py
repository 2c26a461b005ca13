"""`sdejax env`: versions, devices, and what is optional and missing."""

import dataclasses
import importlib.metadata
import json
from typing import Any

from sdejax.commands.options import cache_address
from sdejax.runtime.storage import Folder


@dataclasses.dataclass(frozen=True)
class Env:
    """Versions, devices, and what is optional and missing."""

    json: bool = False
    """One JSON object, for machines."""


def env(command: Env) -> int:
    """Print them."""
    import platform

    import jax

    names = ("sdejax", "jax", "jaxlib", "diffrax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")
    found: dict[str, Any] = {"python": platform.python_version()}
    found |= {name: version(name) for name in names}
    found["backend"] = jax.default_backend()
    found["devices"] = [f"{device.device_kind} {device.id}" for device in jax.devices()]
    found["cache"] = _cache()
    missing = {name: use for name, use in _OPTIONAL.items() if version(name) is None}
    if command.json:
        print(json.dumps({**found, "optional_missing": missing}))
        return 0
    for name, value in found.items():
        print(f"{name:18} {', '.join(value) if isinstance(value, list) else value or 'missing'}")
    for name, use in missing.items():
        print(f"{name:18} missing, optional: {use}")
    return 0


def _cache() -> str:
    """Where the programs of commands are kept, and how much of it there is."""
    address = cache_address(None)
    try:
        folder = Folder.open(address, "cache")
        return f"{address} ({folder.files.du(folder.path) / 2**20:.0f} MiB)"
    except (ValueError, OSError):
        return address


_OPTIONAL = {
    "torch": "reading .pth, .ckpt and .bin files, pip install sdejax[torch]",
    "huggingface_hub": "hf:// addresses, sdejax[hub]",
    "pyarrow": "training on parquet and arrow files, sdejax[data]",
    "libtpu": "sdejax plan for TPUs, sdejax[plan]",
    "matplotlib": "the curves of a bundled snapshot's card, sdejax[card]",
    "dm-pix": "structural similarity in sdejax evaluate, sdejax[metrics]",
    "transformers": "CLIP and DINO scores in sdejax evaluate, sdejax[eval]",
    "lpips": "LPIPS in sdejax evaluate, sdejax[eval]",
    "diffusers": "make parity and benchmarks/network.py, sdejax[bench]",
    "pytest": "tests, pip install sdejax[test]",
    "ruff": "lint, sdejax[test]",
    "pyright": "types, sdejax[test]",
}


def version(name: str) -> str | None:
    """That of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
