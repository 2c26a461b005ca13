"""What a reader of the documents is said to have: pictures, masks, lists of edits, a model, arrays."""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import sdejax as sj
from sdejax.media.images import open_image, to_array
from sdejax.pretrained.diffusers.pipeline import write_diffusers
from tests.docs.documents import ROOT, edit_list
from tests.tiny import tiny_model

EXAMPLES = ROOT / "examples" / "images"
SWAPS = [
    {"image": "examples/images/red-heart.png", "source": "red heart", "target": "blue heart"},
    {"image": "examples/images/woman-light.png", "source": "woman: light skin tone", "target": "woman: dark skin tone"},
]


def furnish(folder: Path) -> None:
    """Put into a folder the repository's checkpoints, configs and examples, and what the commands call the reader's."""
    for name in ("checkpoints", "configs", "examples"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("photos", "masks"):
        (folder / name).mkdir()
    face, crown = open_image(EXAMPLES / "grinning-face.png"), open_image(EXAMPLES / "crown.png")
    drawn, mask = face.copy(), Image.new("L", face.size, 0)
    ImageDraw.Draw(drawn).line((3, 11, 28, 11), fill=(30, 30, 40), width=3)
    ImageDraw.Draw(mask).rectangle((2, 7, 29, 19), fill=255)
    hat = crown.convert("RGBA")
    hat.putalpha(crown.convert("L").point(lambda value: 255 if value < 235 else 0))
    for name in ("photo.png", "photos/1.png", "photos/2.png", "photos/3.png"):
        face.save(folder / name)
    for name in ("guide.png", "drawn.png", "photos/2-drawn.png"):
        drawn.save(folder / name)
    for name in ("mask.png", "masks/1.png"):
        mask.save(folder / name)
    hat.save(folder / "hat.png")
    open_image(EXAMPLES / "red-heart.png").convert("L").save(folder / "grey.png")
    (folder / "edits.jsonl").write_text(edit_list("docs/editing.md"))
    (folder / "swaps.jsonl").write_text("".join(json.dumps(swap) + "\n" for swap in SWAPS))
    how = {"multipliers": (1, 2), "blocks": 1, "groups": 32, "attention_up": "every"}  # as diffusers builds it
    small = sj.NCSNppConfig.ddpm(32, channels=32, **how)
    levels = sj.DiscreteVPSDE(tuple(np.linspace(1e-4, 0.02, 1000).tolist()))
    model = sj.Model.create(small, levels, sj.Parametrisation(sj.PredictNoise(), sj.LevelLabel()))
    write_diffusers(folder / "path" / "to" / "diffusers-folder", model)


def given(document: str) -> dict[str, object]:
    """The names that the sentences around a document's snippets say the reader has. The model is a tiny one."""
    face = to_array(open_image(EXAMPLES / "grinning-face.png"))
    mask = np.zeros(face.shape[:2], np.float32)
    mask[7:20] = 1.0
    model = tiny_model()
    small = np.random.default_rng(0).integers(0, 256, (2, *model.shape), dtype=np.uint8)
    names: dict[str, dict[str, object]] = {
        "README.md": {"guide": face[None], "mask": mask},
        "docs/editing.md": {"guide": to_array(small[:1]), "model": model},
        "docs/training.md": {"images": small, "model": model},
        "docs/pods.md": {"model": model, "seeds": range(70)},
    }
    return names.get(document, {})
