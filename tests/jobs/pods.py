"""Jobs of one or several processes, started as a person would, and the images that they leave."""

import hashlib
import io
import json
import sys
import tarfile

import numpy as np
from PIL import Image

from tests.train_run import free_port, on_fake_devices

WORDS = ["--steps", "2", "--batch", "2"]


def started(*words, devices=1, module="sdejax"):
    """A process, started as a person does it."""
    return on_fake_devices(devices, [sys.executable, "-m", module, *map(str, words)])


def together(count, *words, devices=1):
    """The processes of one run."""
    shared = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", count]
    return [started(*words, *shared, "--process-id", index, devices=devices) for index in range(count)]


def sample(model, out, *more):
    return ["sample", model, "--prompt", "red heart", *WORDS, "--out", str(out), *map(str, more)]


def images_in(out, complete=True):
    """The pixels of all images in shards, by key. Checks that keys are unique, and the indexes and the manifest."""
    found = {}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] == complete
    assert {entry["file"] for entry in manifest["finished"]} == {path.name for path in out.glob("*.tar")}
    for path in sorted(out.glob("*.tar")):
        index = json.loads(path.with_suffix(".json").read_text())
        assert index["bytes"] == path.stat().st_size
        assert index["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        hashes = {line["key"].replace(".", "%2E"): line["sha256"] for line in index["index"]}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, field = member.name.partition(".")
                if field == "png":
                    file = tar.extractfile(member)
                    assert file and key not in found
                    data = file.read()
                    assert hashlib.sha256(data).hexdigest() == hashes.pop(key)
                    found[key] = np.asarray(Image.open(io.BytesIO(data)))
        assert not hashes
    return found
