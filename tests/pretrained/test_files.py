"""Weight files: what is read comes back as numpy arrays, what is damaged is named, and no code of a file is run."""

import pickle
import sys

import numpy as np
import pytest

from sdejax.pretrained.files import digest, read_torch, read_weights, write_safetensors


def test_safetensors_come_back_and_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "a.safetensors"
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float16)}
    write_safetensors(file, arrays)
    read = read_weights(file)
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)
    before = digest(file)
    whole = file.read_bytes()
    for data in (whole[:-3], whole[:4], b"", b"some text"):
        file.write_bytes(data)
        assert digest(file) != before
        with pytest.raises(ValueError, match=r"^weights=.*a\.safetensors") as error:
            read_weights(file)
        assert "\n" not in str(error.value)


class _Runs:
    """An object that writes a file while its pickle is loaded."""

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
        with pytest.raises(ValueError, match=r"^path=.*a\.pth': is not a PyTorch file"):
            read_torch(file)
    torch.save({"a": torch.ones(3), "b": _Runs(made)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"^path=.*a\.pth': refused"):
        read_torch(file)
    assert not made.exists()
    with pytest.raises(ValueError, match=r"^path=.*none\.pth': no such file"):
        read_torch(tmp_path / "none.pth")


def test_without_torch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"pip install 'sdejax\[torch\]'"):
        read_torch("weights.pth")
