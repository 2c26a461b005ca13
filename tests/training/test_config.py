"""Configs as files and as plain data."""

import json
import re
from pathlib import Path

import pytest

import sdejax as sj
from sdejax.training.config import Config, config_from_json, config_to_json, load_config
from sdejax.training.optimiser import OptimiserConfig

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_says_how_it_is_run(path):
    config = load_config(path)
    assert config.name == path.stem
    assert f"sdejax train configs/{path.name}" in path.read_text()
    assert json.loads(config_to_json(config))["steps"] == config.steps


CHANGED = Config(
    "changed",
    "somewhere",
    classes=True,
    network=sj.NCSNppConfig(shape=(16, 16, 1), multipliers=(1, 3), attention=(8, 4)),
    sde=sj.VESDE(0.02, 90.0),
    parametrisation=sj.Parametrisation(sj.PredictVelocity(), sj.TimeLabel(1000.0)),
    objective=sj.Objective(weighting="min_snr", gamma=4.0),
    optimiser=OptimiserConfig(schedule="cosine", learning_rate=2e-4),
    ema=(0.9, 0.99),
)


def test_a_config_survives_json():
    # Rejects parts restored with their defaults, and tuples that come back as unhashable lists.
    restored = config_from_json(json.loads(config_to_json(CHANGED)))
    assert restored == CHANGED
    hash(restored)


def test_the_config_of_an_older_run_is_read():
    """Its parametrisation has strings, and it lacks the fields that came later. "velocity" was e - x0."""
    data = json.loads(config_to_json(CHANGED))
    data["parametrisation"] = {"prediction": "velocity", "condition": "level", "levels": 50}
    for part, field in ((data, "classes"), (data["network"], "classes"), (data["objective"], "data_std")):
        del part[field]
    restored = config_from_json(data)
    assert restored.parametrisation == sj.Parametrisation(sj.PredictDisplacement(), sj.LevelLabel(50))
    assert (restored.classes, restored.network, restored.sde) == (False, CHANGED.network, CHANGED.sde)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("stepz",), 3, "config.stepz"),
        (("steps",), "many", "config.steps='many'"),
        (("steps",), True, "config.steps=True"),
        (("steps",), 0, "steps=0"),
        (("crop",), "left", "crop='left'"),
        (("ema",), [0.9, "x"], "config.ema=[0.9, 'x']"),
        (("network", "channels"), 3.5, "network.channels=3.5"),
        (("sde", "class"), "MagicSDE", "sde.class='MagicSDE'"),
        (("optimiser", "schedule"), "linear", "optimiser.schedule='linear'"),
        (("parametrisation", "prediction", "class"), "Magic", "prediction.class='Magic'"),
        (("parametrisation",), None, "parametrisation"),
    ],
)
def test_what_a_config_file_should_not_have_is_named(tmp_path, path, value, named):
    data = json.loads(config_to_json(CHANGED))
    part = data
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    file = tmp_path / "config.json"
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=re.escape(named)) as raised:
        load_config(file)
    assert str(raised.value).startswith(f"config={str(file)!r}: ")
    assert "\n" not in str(raised.value)


def test_a_config_without_its_function_is_named(tmp_path):
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(ValueError, match=r"empty\.py.*no get_config"):
        load_config(tmp_path / "empty.py")
    with pytest.raises(ValueError, match=r"none\.py.*no such file"):
        load_config(tmp_path / "none.py")
