"""Addresses of the Hub, against a cache made by hand and a server of ours; and what is refused of PyTorch's files."""

import http.server
import json
import pickle
import sys
import threading
from typing import ClassVar

import numpy as np
import pytest

from sdejax.pretrained.hub import resolve
from sdejax.pretrained.torch_files import read_torch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "model_index.json": b"{}",
    "unet/diffusion_pytorch_model.bin": b"weights",
    "README.md": b"long",
    "training.log": b"longer",
    "a.onnx": b"no",
}


class _Hub(http.server.BaseHTTPRequestHandler):
    """One repository, owner/there, of one revision; every path that is asked for is kept."""

    asked: ClassVar[list[str]] = []

    def do_GET(self):
        path = self.path.split("?")[0]
        self.asked.append(path)
        if path.startswith("/api/models/owner/there/tree/"):
            files = [
                {"type": "file", "path": p, "size": len(d), "oid": f"{i:040d}"}
                for i, (p, d) in enumerate(FILES.items())
            ]
            self._answer(200, json.dumps(files).encode())
        elif path in ("/api/models/owner/there", "/api/models/owner/there/revision/main"):
            self._answer(200, json.dumps({"id": "owner/there", "sha": COMMIT, "siblings": []}).encode())
        elif path.startswith("/api/models/owner/there"):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"/owner/there/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/owner/there/resolve/{COMMIT}/")
            self._answer(200, FILES[name], {"ETag": f'"{hash(name) % 2**60:040x}"', "X-Repo-Commit": COMMIT})
        elif path.startswith("/api/models/owner/broken"):
            self._answer(400, b"{}")
        else:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _answer(self, status, data, headers=None):
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a Hub that refuses connections."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path


@pytest.fixture
def server(cache, monkeypatch):
    """A Hub on this machine; what it was asked for."""
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(_Hub, "asked", [])
    yield _Hub.asked
    server.shutdown()
    server.server_close()


def _cached(cache, name, reference="main", files=("model.json", "params.safetensors")):
    """A repository as huggingface_hub lays it out in its cache."""
    repository = cache / ("models--" + name.replace("/", "--"))
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / reference).write_text(COMMIT)
    for file in files:
        (snapshot / file).write_bytes(b"")
    return snapshot


def test_a_cached_repository_needs_no_network(cache):
    snapshot = _cached(cache, "owner/name", "v1")
    assert resolve("hf://owner/name@v1") == snapshot
    assert resolve(f"hf://owner/name@{COMMIT}") == snapshot
    with pytest.raises(
        ValueError, match=r"address='hf://owner/name': not in the cache, and the Hub cannot be reached \("
    ):
        resolve("hf://owner/name")


def test_a_cached_part_of_a_repository_is_completed(server, cache):
    _cached(cache, "owner/there", files=["model_index.json"])
    assert (resolve("hf://owner/there") / "unet" / "diffusion_pytorch_model.bin").read_bytes() == b"weights"


def test_what_sdejax_reads_is_downloaded_once_and_nothing_else(server):
    folder = resolve("hf://owner/there@main")
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    # README.md says the licence, for the card of an imported model.
    assert found == {"README.md", "model_index.json", "unet/diffusion_pytorch_model.bin"}
    asked = len(server)
    assert resolve("hf://owner/there") == folder
    assert len(server) == asked


def test_what_the_hub_lacks_is_named(server):
    with pytest.raises(ValueError, match=r"address='hf://owner/none': the Hub has no repository 'owner/none'"):
        resolve("hf://owner/none")
    with pytest.raises(ValueError, match=r"'hf://owner/there@v9': the repository 'owner/there' has no revision 'v9'"):
        resolve("hf://owner/there@v9")
    with pytest.raises(ValueError, match=r"'hf://owner/broken': not in the cache, and the Hub cannot be reached"):
        resolve("hf://owner/broken")


@pytest.mark.parametrize("address", ["hf://name", "hf://a/b/c", "hf://owner/name@", "https://a/b", "hf://owner/na me"])
def test_a_malformed_address_is_refused_with_the_form(address):
    with pytest.raises(ValueError, match="must be of the form hf://owner/name or hf://owner/name@revision"):
        resolve(address)


def test_a_name_that_the_hub_does_not_allow_is_refused(cache):
    with pytest.raises(ValueError, match=r"address='hf://owner/a--b': 'owner/a--b' is not a name that the Hub allows"):
        resolve("hf://owner/a--b")


@pytest.mark.parametrize(("package", "extra"), [("huggingface_hub", "hub"), ("torch", "torch")])
def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"pip install 'sdejax\[{extra}\]'"):
        resolve("hf://owner/name") if extra == "hub" else read_torch("weights.pth")


class _Runs:
    """An object whose pickle, loaded, makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_read_and_no_code_is_run(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    file, made = tmp_path / "a.pth", tmp_path / "made"
    content = {"a": torch.ones(3, dtype=torch.bfloat16), "b": [torch.arange(2), {"c": (1, "x", torch.zeros(1, 2))}]}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    read = read_torch(file)
    np.testing.assert_array_equal(read["a"], np.ones(3, np.float32))
    np.testing.assert_array_equal(read["b"][0], [0, 1])
    assert read["b"][1]["c"][:2] == (1, "x") and read["b"][1]["c"][2].shape == (1, 2)
    whole = file.read_bytes()
    for data in (whole[: len(whole) // 2], whole[:-10], b"", b"some text", pickle.dumps({"a": 1}, 2)[:-1]):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"a.pth': is not a PyTorch file, or is (cut short|damaged)"):
            read_torch(file)
    torch.save({"a": torch.ones(3), "b": _Runs(made)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError, match=r"a.pth': refused, as it holds Python objects and loading those could run code"
    ):
        read_torch(file)
    assert not made.exists()
    with pytest.raises(ValueError, match=r"none.pth': no such file"):
        read_torch(tmp_path / "none.pth")
