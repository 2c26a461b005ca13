"""What most tests of commands need: snapshots, and pictures to edit."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from sdejax.model.snapshot import save
from tests.tiny import CONFIG, tiny_model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny snapshot with text, one without, a damaged one, a config without data, and pictures."""
    top = tmp_path_factory.mktemp("place")
    save(top / "model", tiny_model())
    save(top / "wordless", tiny_model(dataclasses.replace(CONFIG, words=0)))
    broken = top / "broken"
    save(broken, tiny_model())
    (broken / "params.safetensors").unlink()
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(top / "image.png")
    Image.fromarray(noise).resize((40, 24)).convert("RGBA").save(top / "large.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 3:7] = 255
    Image.fromarray(mask).save(top / "mask.png")
    Image.fromarray(mask).resize((40, 24)).save(top / "large-mask.png")
    (top / "cut.png").write_bytes((top / "image.png").read_bytes()[:60])
    (top / "empty").mkdir()
    (top / "file").write_text("")
    (top / "tiny.py").write_text(
        "from sdejax.training.config import Config\n"
        f"def get_config():\n    return Config(name='t', data={str(top / 'empty')!r}, out={str(top / 'run')!r})\n"
    )
    return top
