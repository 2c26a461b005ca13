"""Addresses of the Hub, tested against a cache made by hand and a local server."""

import http.server
import json
import sys
import threading
from typing import ClassVar

import pytest

from sdejax.pretrained.hub import resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "model_index.json": b"{}",
    "unet/diffusion_pytorch_model.bin": b"weights",
    "README.md": b"long",
    "training.log": b"longer",
    "a.onnx": b"no",
}


class _Hub(http.server.BaseHTTPRequestHandler):
    """A Hub with one repository, owner/there, of one revision. It records each requested path in `asked`."""

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
    """Start a Hub on this machine and return the list of requested paths."""
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
    """Make a repository in the layout of huggingface_hub's cache."""
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
    with pytest.raises(ValueError, match=r"^address='hf://owner/name': is not in the cache"):
        resolve("hf://owner/name")


def test_an_incomplete_repository_in_the_cache_is_completed(server, cache):
    _cached(cache, "owner/there", files=["model_index.json"])
    assert (resolve("hf://owner/there") / "unet" / "diffusion_pytorch_model.bin").read_bytes() == b"weights"


def test_only_the_files_that_sdejax_reads_are_downloaded_and_only_once(server):
    folder = resolve("hf://owner/there@main")
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    # The card of an imported model takes the licence from README.md.
    assert found == {"README.md", "model_index.json", "unet/diffusion_pytorch_model.bin"}
    asked = len(server)
    assert resolve("hf://owner/there") == folder
    assert len(server) == asked


def test_a_missing_repository_or_revision_is_named(server):
    with pytest.raises(ValueError, match=r"^address='hf://owner/none': .*'owner/none'"):
        resolve("hf://owner/none")
    with pytest.raises(ValueError, match=r"^address='hf://owner/there@v9': .*revision 'v9'"):
        resolve("hf://owner/there@v9")
    with pytest.raises(ValueError, match=r"^address='hf://owner/broken': "):
        resolve("hf://owner/broken")


@pytest.mark.parametrize("address", ["hf://name", "hf://a/b/c", "hf://owner/name@", "https://a/b", "hf://owner/na me"])
def test_a_malformed_address_is_refused_with_the_form(address):
    with pytest.raises(ValueError, match=r"^address='.*': .*hf://owner/name@revision"):
        resolve(address)


def test_a_name_that_the_hub_does_not_allow_is_refused(cache):
    with pytest.raises(ValueError, match=r"^address='hf://owner/a--b': 'owner/a--b'"):
        resolve("hf://owner/a--b")


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'sdejax\[hub\]'"):
        resolve("hf://owner/name")
