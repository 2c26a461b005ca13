"""Scores by other people's networks, on torch (extra `eval`): CLIP, DINO and LPIPS. Absent unless asked for.

    CLIP   (Radford et al. 2021; Hessel et al. 2021)  100 max(cos, 0) between an image and a text
    DINO   (Caron et al. 2021; Oquab et al. 2023)  the cosine between the class tokens of two images
    LPIPS  (Zhang et al. 2018)  the distance of two images in AlexNet's features, with the paper's linear weights (0.1)

Each `load_...` takes a folder (or a file) on this machine, or a name on the Hugging Face Hub, and gives a function of
images (n, h, w, 3) or (n, h, w, 1) in [-1, 1] that returns (n,) scores. The libraries' own preprocessing resizes them.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdejax.media.images import to_bytes

ImageText = Callable[[np.ndarray, Sequence[str]], np.ndarray]
ImageImage = Callable[[np.ndarray, np.ndarray], np.ndarray]
_LPIPS_SIDE = 64  # the patches that LPIPS was fitted to; AlexNet has nothing left of smaller images


def load_clip(where: str) -> ImageText:
    """CLIP's score of images for texts, from weights in transformers' layout.

    **Raises:** `ValueError` where transformers is missing or there are no such weights.
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
    """The cosine of two images' class tokens, from the weights of a DINO or DINOv2 in transformers' layout.

    **Raises:** `ValueError` where transformers is missing or there are no such weights.
    """
    with _loading("dino", where) as (torch, transformers):
        model = transformers.AutoModel.from_pretrained(where).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(where)

    def tokens(images: np.ndarray) -> Any:
        return model(processor(_rgb(images), return_tensors="pt").pixel_values).last_hidden_state[:, 0]

    def score(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return torch.nn.functional.cosine_similarity(tokens(a), tokens(b)).double().numpy()

    return score


def load_lpips(where: str) -> ImageImage:
    """LPIPS with AlexNet. `where` is the file of torchvision's AlexNet, or "torchvision", which downloads it.

    The linear weights come with the package lpips. Images with a side below 64 are enlarged to 64.

    **Raises:** `ValueError` where lpips is missing or there is no such file.
    """
    with _loading("lpips", where) as (torch, _):
        import lpips  # pyright: ignore[reportMissingImports]

        model = lpips.LPIPS(net="alex", pnet_rand=where != "torchvision", verbose=False).eval()
        if where != "torchvision":
            given = torch.load(where, map_location="cpu", weights_only=True)
            # Its slices keep the numbers that the layers have in torchvision's `features`.
            state = {name: given[f"features.{name.split('.', 1)[1]}"] for name in model.net.state_dict()}
            model.net.load_state_dict(state)

    def pixels(images: np.ndarray) -> Any:
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
    """(n, h, w, 1 or 3) in [-1, 1] to a list of 8-bit RGB, as files hold them."""
    return list(np.repeat(to_bytes(images), 3 // images.shape[-1], axis=-1))


@contextlib.contextmanager
def _loading(option: str, where: str) -> Iterator[tuple[Any, Any]]:
    """torch and transformers; what goes wrong while weights are read becomes one sentence."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
        import transformers  # pyright: ignore[reportMissingImports]

        yield torch, transformers
    except ImportError as error:
        raise ValueError(
            f"{option}={where!r}: needs torch, transformers and lpips (pip install 'sdejax[eval]'; {error})"
        ) from None
    except Exception as error:  # three libraries, each with errors of its own
        known = "" if Path(where).exists() else ", which is no file or folder here"
        raise ValueError(f"{option}={where!r}{known}: cannot be read ({' '.join(str(error).split())[:200]})") from None
