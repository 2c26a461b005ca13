"""Scores by published networks, which run on torch (extra `eval`): CLIP, DINO and LPIPS. They are optional.

    CLIP   (Radford et al. 2021; Hessel et al. 2021)  100 max(cos, 0) between an image and a text
    DINO   (Caron et al. 2021; Oquab et al. 2023)  the cosine between the class tokens of two images
    LPIPS  (Zhang et al. 2018)  the distance of two images in AlexNet's features, with the paper's linear weights (0.1)

Each `load_...` takes a folder or file on this machine, or a name on the Hugging Face Hub. It returns a function of
images (n, h, w, 3) or (n, h, w, 1) in [-1, 1] that gives (n,) scores. The libraries' own preprocessing resizes them.
"""

import contextlib
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdejax.media.images import to_bytes

if TYPE_CHECKING:
    from torch import Tensor  # pyright: ignore[reportMissingImports]

ImageText = Callable[[np.ndarray, Sequence[str]], np.ndarray]
ImageImage = Callable[[np.ndarray, np.ndarray], np.ndarray]
_LPIPS_SIDE = 64  # the side of the patches that LPIPS was fitted to; AlexNet reduces smaller images to nothing


def load_clip(where: str) -> ImageText:
    """Load CLIP, whose score compares images with texts, from weights in transformers' layout.

    **Raises:** `ValueError` if transformers is missing, or if the weights cannot be read.
    """
    with _loading("clip", where) as (torch, transformers):
        model = transformers.CLIPModel.from_pretrained(where).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(where)
        tokenizer = transformers.AutoTokenizer.from_pretrained(where)
        length = model.config.text_config.max_position_embeddings

    def score(images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        with torch.inference_mode():
            words = tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
            pixels = processor(_rgb(images), return_tensors="pt").pixel_values
            found = model(input_ids=words.input_ids, attention_mask=words.attention_mask, pixel_values=pixels)
            cosine = torch.nn.functional.cosine_similarity(found.image_embeds, found.text_embeds)
        return 100.0 * np.maximum(cosine.double().numpy(), 0.0)

    return score


def load_dino(where: str) -> ImageImage:
    """Load DINO or DINOv2, whose score is the cosine of the class tokens, from weights in transformers' layout.

    **Raises:** `ValueError` if transformers is missing, or if the weights cannot be read.
    """
    with _loading("dino", where) as (torch, transformers):
        model = transformers.AutoModel.from_pretrained(where).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(where)

    def tokens(images: np.ndarray) -> "Tensor":
        return model(processor(_rgb(images), return_tensors="pt").pixel_values).last_hidden_state[:, 0]

    def score(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return torch.nn.functional.cosine_similarity(tokens(a), tokens(b)).double().numpy()

    return score


def load_lpips(where: str) -> ImageImage:
    """Load LPIPS with AlexNet. `where` is the file of torchvision's AlexNet, or "torchvision" to download it.

    The package lpips has the linear weights. If a side of the images is below 64 pixels, they are enlarged to 64.

    **Raises:** `ValueError` if lpips is missing, or if the file cannot be read.
    """
    with _loading("lpips", where) as (torch, _):
        import lpips  # pyright: ignore[reportMissingImports]

        model = lpips.LPIPS(net="alex", pnet_rand=where != "torchvision", verbose=False).eval()
        if where != "torchvision":
            given = torch.load(where, map_location="cpu", weights_only=True)
            # The layers have the same numbers in lpips' slices as in torchvision's `features`.
            state = {name: given[f"features.{name.split('.', 1)[1]}"] for name in model.net.state_dict()}
            model.net.load_state_dict(state)

    def pixels(images: np.ndarray) -> "Tensor":
        found = torch.from_numpy(np.stack(_rgb(images)).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1.0)
        shorter = min(found.shape[2:])
        if shorter >= _LPIPS_SIDE:
            return found
        size = [max(_LPIPS_SIDE, round(side * _LPIPS_SIDE / shorter)) for side in found.shape[2:]]
        return torch.nn.functional.interpolate(found, size, mode="bicubic", antialias=True)

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(pixels(a), pixels(b)).reshape(-1).double().numpy()

    return distance


def _rgb(images: np.ndarray) -> list[np.ndarray]:
    """Convert images (n, h, w, 1 or 3) in [-1, 1] to a list of 8-bit RGB images."""
    return list(np.repeat(to_bytes(images), 3 // images.shape[-1], axis=-1))


@contextlib.contextmanager
def _loading(option: str, where: str) -> Iterator[tuple[types.ModuleType, types.ModuleType]]:
    """Give the modules torch and transformers, and turn any error while weights are read into one sentence."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
        import transformers  # pyright: ignore[reportMissingImports]

        yield torch, transformers
    except ImportError as error:
        raise ValueError(
            f"{option}={where!r}: needs torch, transformers and lpips (pip install 'sdejax[eval]'; {error})"
        ) from None
    except Exception as error:  # each of the three libraries has its own errors
        known = "" if Path(where).exists() else ", which is not a file or folder on this machine"
        raise ValueError(f"{option}={where!r}{known}: cannot be read ({' '.join(str(error).split())[:200]})") from None
