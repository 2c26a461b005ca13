"""Files that PyTorch wrote, read as numpy, and the side of the images, which a file of weights leaves unsaid.

What a pickle asks to be run is never run.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any


def read_torch(path: str | Path) -> Any:
    """The content of a PyTorch file, most often a dict: every tensor a numpy array, in dicts, lists and tuples alike.

    **Raises:** `ValueError`, naming the path, where PyTorch is not installed, the file is missing or damaged, or it
    holds more than tensors and plain values.
    """
    named = f"path={str(path)!r}"
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(f"{named}: a PyTorch file is read by torch (pip install 'sdejax[torch]')") from None
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{named}: no such file")
    try:
        # Mapped, an optimiser's state beside the weights is never read from the disk; only zip archives can be mapped.
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        if any(words in str(error) for words in ("GLOBAL", "reduce", "Can only")):
            raise ValueError(f"{named}: refused, as it holds Python objects and loading those could run code") from None
        raise ValueError(f"{named}: is not a PyTorch file, or is damaged") from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, IndexError, TypeError):
        raise ValueError(f"{named}: is not a PyTorch file, or is cut short") from None
    return _as_numpy(content, torch)


def image_side(size: int | None, attending: list[int], levels: int) -> int:
    """The side of the images: `size`, or what puts the one level with attention at the 16 pixels of the publications.

    **Raises:** `ValueError` where it must be given, or where `size` cannot be halved for every level.
    """
    if size is None:
        if len(attending) != 1:
            raise ValueError(f"size=None: must be given for a network with attention at {len(attending)} levels, not 1")
        return 16 << attending[0]
    coarsest = 1 << (levels - 1)
    if size < 1 or size % coarsest:
        raise ValueError(f"size={size}: must be a multiple of {coarsest}, as the network has {levels} levels")
    return size


def _as_numpy(value: Any, torch: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if isinstance(value, dict):
        return {key: _as_numpy(item, torch) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_as_numpy(item, torch) for item in value)
    return value
