"""`sdejax env`: versions, devices, and optional packages that are missing."""

import dataclasses
import importlib.metadata
import json
from collections.abc import Sequence
from typing import Any, ClassVar

from sdejax.commands.arguments import parse
from sdejax.commands.start import cache_address
from sdejax.runtime.storage import Folder

_LIBRARIES = ("sdejax", "jax", "jaxlib", "diffrax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow")
_OPTIONAL = {
    "torch": "reading .pth, .ckpt and .bin files, pip install sdejax[torch]",
    "huggingface_hub": "hf:// addresses, sdejax[hub]",
    "pyarrow": "training on parquet and arrow files, sdejax[data]",
    "libtpu": "sdejax plan for TPUs, sdejax[plan]",
    "matplotlib": "the curves of sdejax evaluate and of a bundled snapshot's card, sdejax[metrics] or sdejax[card]",
    "dm-pix": "structural similarity in sdejax evaluate, sdejax[metrics]",
    "transformers": "CLIP and DINO scores in sdejax evaluate, sdejax[eval]",
    "lpips": "LPIPS in sdejax evaluate, sdejax[eval]",
    "diffusers": "make parity and benchmarks/network.py, sdejax[bench]",
    "pytest": "tests, pip install sdejax[test]",
    "ruff": "lint, sdejax[test]",
    "pyright": "types, sdejax[test]",
}


@dataclasses.dataclass(frozen=True)
class EnvCommand:
    """List the versions of libraries, the devices, and the optional packages that are missing."""

    verb: ClassVar[str] = "env"
    json: bool = False
    """Print one JSON object, for other programs."""

    def execute(self) -> int:
        """Print the list."""
        import platform

        import jax

        found: dict[str, Any] = {"python": platform.python_version()}
        found |= {name: version(name) for name in _LIBRARIES}
        found["backend"] = jax.default_backend()
        found["devices"] = [f"{device.device_kind} {device.id}" for device in jax.devices()]
        found["cache"] = _cache()
        missing = {name: use for name, use in _OPTIONAL.items() if version(name) is None}
        if self.json:
            print(json.dumps({**found, "optional_missing": missing}))
            return 0
        for name, value in found.items():
            print(f"{name:18} {', '.join(value) if isinstance(value, list) else value or 'missing'}")
        for name, use in missing.items():
            print(f"{name:18} missing, optional: {use}")
        return 0


def from_words(words: Sequence[str]) -> EnvCommand:
    """The command that these words ask for."""
    return parse(EnvCommand, words)


def _cache() -> str:
    """The folder of kept programs, and its size."""
    address = cache_address(None)
    try:
        folder = Folder.open(address, "cache")
        return f"{address} ({folder.files.du(folder.path) / 2**20:.0f} MiB)"
    except (ValueError, OSError):
        return address


def version(name: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
