"""Configs as files and as plain data."""

import json
from pathlib import Path

import pytest

import sdejax as sj
from sdejax.model.parametrisation import Parametrisation
from sdejax.model.serialise import architecture_from_json, architecture_to_json
from sdejax.training.config import config_to_json, load_config
from tests.tiny import CONFIG, VOCABULARY

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_says_how_it_is_run(path):
    config = load_config(path)
    assert config.name == path.stem
    assert f"sdejax train configs/{path.name}" in path.read_text()
    assert json.loads(config_to_json(config))["steps"] == config.steps


@pytest.mark.parametrize(
    "process", [sj.VPSDE(0.2, 15.0), sj.SubVPSDE(), sj.VESDE(0.02, 90.0), sj.RectifiedFlow()], ids=str
)
def test_an_architecture_survives_json(process):
    # Rejects a process restored with default parameters, and tuples that come back as unhashable lists.
    parametrisation = Parametrisation("v", "time", 0.7)
    data = json.loads(json.dumps(architecture_to_json(CONFIG, process, parametrisation, VOCABULARY)))
    restored = architecture_from_json(data)
    assert restored == (CONFIG, process, parametrisation, VOCABULARY)
    hash(restored)


def test_a_config_without_its_function_is_named(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(ValueError, match=r"empty\.py.*no get_config"):
        load_config(tmp_path / "empty.py")
    with pytest.raises(ValueError, match=r"none\.py.*no such file"):
        load_config(tmp_path / "none.py")
