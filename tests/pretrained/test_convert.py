"""Weights are imported with a card that says where they are from, and exported again."""

import numpy as np
import pytest

import sdejax as sj
from sdejax.nn.params import to_names
from sdejax.pretrained.convert import export_model, import_model
from tests.pretrained.test_diffusers import write


@pytest.fixture
def source(tmp_path):
    folder = write(tmp_path / "source", "ddpm")
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A model\n")
    return folder


def test_import_and_export_keep_the_model(source, tmp_path):
    """Bit for bit, both in our layout and in diffusers'."""
    model = import_model(str(source), tmp_path / "snapshot")
    assert export_model(tmp_path / "snapshot", tmp_path / "out") == ""
    ours = sj.load(tmp_path / "out")
    (tmp_path / "out" / "model.json").unlink()
    theirs = sj.load(tmp_path / "out")
    for again in (ours, theirs):
        assert (again.config, again.sde, again.parametrisation) == (model.config, model.sde, model.parametrisation)
        for (name, a), b in zip(to_names(model.params).items(), to_names(again.params).values(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_the_card_has_the_hash_and_the_licence(source, tmp_path):
    model = import_model(str(source), tmp_path / "stated")
    card = (tmp_path / "stated" / "README.md").read_text()
    assert model.source in card
    assert len(model.source) == len("sha256:") + 64
    assert "| Licence | cc-by-4.0 |" in card
    import_model(str(source), tmp_path / "given", licence="Apache-2.0")
    assert "| Licence | Apache-2.0 |" in (tmp_path / "given" / "README.md").read_text()
    (source / "README.md").unlink()
    import_model(str(source), tmp_path / "silent")
    assert "not stated by the source" in (tmp_path / "silent" / "README.md").read_text()


def test_if_the_source_cannot_be_read_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"^snapshot=.*missing': "):
        import_model(str(tmp_path / "missing"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
