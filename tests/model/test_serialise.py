"""Models as plain data: what is written comes back, and nothing unknown is read."""

import copy
import itertools
import json
import re

import numpy as np
import pytest

import sdejax as sj
from sdejax.model.codec import Identity
from sdejax.model.conditioners import ClassLabels, Unconditional
from sdejax.model.format_1 import parametrisation_from_format_1
from sdejax.model.serialise import (
    IMAGE_RANGES,
    LABELS,
    PREDICTIONS,
    PROCESSES,
    Architecture,
    architecture_from_json,
    architecture_to_json,
    parametrisation_from_json,
)
from tests.model.test_snapshot import FORMAT_1
from tests.tiny import CONFIG, VOCABULARY

CLASSES = sj.NCSNppConfig(shape=(8, 8, 3), classes=3)
WORDLESS = sj.NCSNppConfig(shape=(8, 8, 1), multipliers=(1, 2), attention=())
CHANGED = {
    sj.VPSDE: sj.VPSDE(0.2, 15.0),
    sj.SubVPSDE: sj.SubVPSDE(0.2, 15.0),
    sj.VESDE: sj.VESDE(0.02, 90.0),
    sj.DiscreteVPSDE: sj.DiscreteVPSDE((0.1, 0.25)),
    sj.EDM: sj.EDM(0.7),
    sj.TimeLabel: sj.TimeLabel(1000.0),
    sj.LevelLabel: sj.LevelLabel(50),
    sj.NoiseIndexLabel: sj.NoiseIndexLabel(50),
    sj.UnitRange: sj.UnitRange(False),
}


def changed(cls):
    """An instance with no field at its default."""
    return CHANGED[cls] if cls in CHANGED else cls()


def through_json(architecture):
    return architecture_from_json(json.loads(json.dumps(architecture_to_json(architecture))))


@pytest.mark.parametrize("process", [changed(cls) for cls in PROCESSES], ids=str)
def test_every_process_comes_back(process):
    # Rejects a process restored with default parameters, and tuples that come back as unhashable lists.
    given = Architecture(CONFIG, process, sj.Parametrisation(), VOCABULARY, Identity())
    assert through_json(given) == given
    hash(through_json(given))


def test_every_parametrisation_comes_back():
    parts = itertools.product(map(changed, PREDICTIONS), map(changed, LABELS), map(changed, IMAGE_RANGES))
    count = 0
    for prediction, label, images in parts:
        try:
            parametrisation = sj.Parametrisation(prediction, label, images)
        except ValueError:
            assert isinstance(images, sj.UnitRange)
            continue
        given = Architecture(WORDLESS, sj.VPSDE(), parametrisation, Unconditional(), Identity())
        assert through_json(given) == given
        count += 1
    assert count == 4 * (8 + 3)  # the noise and the two scores have a meaning for images in [0, 1]


@pytest.mark.parametrize("null", [True, False])
def test_classes_come_back(null):
    names = ("cat", "dog") if null else ("cat", "dog", "heron")
    given = Architecture(CLASSES, sj.VPSDE(), sj.Parametrisation(), ClassLabels(names, null), Identity())
    assert through_json(given) == given


@pytest.fixture
def data():
    """The plain data of a model."""
    conditioner = ClassLabels(("cat", "dog"))
    given = Architecture(CLASSES, sj.VPSDE(), sj.Parametrisation(sj.EDM(0.6)), conditioner, Identity())
    return json.loads(json.dumps(architecture_to_json(given)))


REMOVED = object()
FAULTS = [
    (("format",), 99, "format=99"),
    (("format",), 0, "format=0"),
    (("format",), "2", "format='2'"),
    (("format",), True, "format=True"),
    (("format",), REMOVED, "format=None"),
    (("magic",), 1, "magic"),
    (("codec",), REMOVED, "codec"),
    (("network", "class"), "Magic", "network.class='Magic'"),
    (("network", "class"), REMOVED, "network.class=None"),
    (("network", "class"), ["NCSNppConfig"], "network.class=['NCSNppConfig']"),
    (("network",), "NCSNpp", "network='NCSNpp'"),
    (("network", "magic"), 1, "network.magic"),
    (("network", "blocks"), REMOVED, "network.blocks"),
    (("network", "channels"), "32", "network.channels='32'"),
    (("network", "channels"), 32.5, "network.channels=32.5"),
    (("network", "channels"), True, "network.channels=True"),
    (("network", "channels"), None, "network.channels=None"),
    (("network", "fir"), 1, "network.fir=1"),
    (("network", "resblock"), "magic", "network.resblock='magic'"),
    (("network", "shape"), [8, 8], "network.shape=[8, 8]"),
    (("network", "shape"), 8, "network.shape=8"),
    (("network", "shape"), [7, 8, 3], "shape=(7, 8, 3)"),
    (("network", "multipliers"), "12", "network.multipliers='12'"),
    (("network", "multipliers"), [], "multipliers=()"),
    (("network", "channels"), 0, "channels=0"),
    (("network", "groups"), 3, "groups=3"),
    (("network", "downsample_padding"), [-1, 0], "downsample_padding=(-1, 0)"),
    (("network", "epsilon"), 0, "epsilon=0"),
    (("network", "classes"), -1, "classes=-1"),
    (("network", "classes"), 4, "network.classes=4"),
    (("network", "conditional"), False, "classes=3"),
    (("sde", "class"), "Magic", "sde.class='Magic'"),
    (("sde", "beta_max"), "20", "sde.beta_max='20'"),
    (("sde", "beta_max"), REMOVED, "sde.beta_max"),
    (("sde", "beta_max"), -1.0, "beta_max=-1.0"),
    (("sde", "beta_max"), float("nan"), "beta_max=nan"),
    (("parametrisation",), [], "parametrisation=[]"),
    (("parametrisation", "prediction", "class"), "Magic", "prediction.class='Magic'"),
    (("parametrisation", "prediction", "data_std"), REMOVED, "prediction.data_std"),
    (("parametrisation", "prediction", "data_std"), 0, "data_std=0"),
    (("parametrisation", "prediction"), "edm", "prediction='edm'"),
    (("parametrisation", "prediction"), REMOVED, "parametrisation.prediction"),
    (("parametrisation", "magic"), 1, "parametrisation.magic"),
    (("parametrisation", "images", "class"), "UnitRange", "images.centred"),
    (("conditioner", "class"), "Magic", "conditioner.class='Magic'"),
    (("conditioner", "names"), "ab", "conditioner.names='ab'"),
    (("conditioner", "names"), ["cat", "cat"], "'cat'"),
    (("conditioner", "names"), ["cat", 2], "conditioner.names=['cat', 2]"),
    (("conditioner", "null"), False, "network.classes=3"),
    (("codec", "class"), "Magic", "codec.class='Magic'"),
    (("codec", "magic"), 1, "codec.magic"),
]


@pytest.mark.parametrize(("path", "value", "named"), FAULTS, ids=lambda value: str(value)[:40])
def test_what_is_unknown_or_missing_is_named(data, path, value, named):
    """One sentence that names the field and its value. Rejects every default that stands in for them."""
    changed, part = copy.deepcopy(data), None
    part = changed
    for name in path[:-1]:
        part = part[name]
    if value is REMOVED:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    assert architecture_from_json(data)
    with pytest.raises(ValueError, match=re.escape(named)) as raised:
        architecture_from_json(changed)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [None, 3, "model", [1]])
def test_what_is_no_object_is_refused(value):
    with pytest.raises(ValueError, match="JSON object"):
        architecture_from_json(value)


def test_a_whole_number_stands_for_a_float(data):
    data["sde"]["beta_max"] = 20
    found = architecture_from_json(data).sde
    assert found == sj.VPSDE()
    assert isinstance(found, sj.VPSDE) and isinstance(found.beta_max, float)


def test_every_string_of_format_1_means_what_it_meant():
    """`parametrisations.npz` holds what commit 922db65, the last one that wrote format 1, computed for each string.

    1e-5 relative. Rejects any prediction, label or range that is taken for another.
    """
    said = np.load(FORMAT_1 / "parametrisations.npz")
    t, x, output = said["t"], said["x"], said["output"]
    processes = {"VP": sj.VPSDE(0.2, 15.0), "VE": sj.VESDE(0.02, 90.0), "RF": sj.RectifiedFlow()}
    checked = 0
    for key in said.files:
        if "/" not in key:
            continue
        process, word, images, kind = key.split("/")
        old = {"data_std": 0.7, "levels": 50, "unit_range": images[0] == "1", "centred": images[1:] != "0"}
        old |= {"prediction": "noise", "condition": word} if kind == "label" else {"prediction": word}
        parametrisation, sde = parametrisation_from_json(parametrisation_from_format_1(old)), processes[process]
        if kind == "label":
            found = parametrisation.label(sde, t)
        elif kind == "input":
            found = parametrisation.network_input(sde, t, x)
        else:
            network_output = parametrisation.evaluate(lambda *_: output, sde, t, x, None)
            found = parametrisation.denoised(sde, t, x, network_output)
        np.testing.assert_allclose(found, said[key], rtol=1e-5, atol=1e-6, err_msg=key)
        checked += 1
    assert checked == 3 * (2 * (7 + 2 * 3) + 2 * 4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prediction": "magic"}, "parametrisation.prediction='magic'"),
        ({"condition": "magic"}, "parametrisation.condition='magic'"),
        ({"magic": 1}, "parametrisation.magic"),
        ({"levels": "many"}, "parametrisation.levels='many'"),
        ({"data_std": -1.0}, "data_std=-1.0"),
    ],
)
def test_what_format_1_did_not_have_is_named(change, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        parametrisation_from_format_1({"prediction": "edm", **change})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"vocabulary": REMOVED}, "vocabulary"),
        ({"vocabulary": ["red"]}, "vocabulary=['red']"),
        ({"vocabulary": {"words": ["red"], "length": 2, "magic": 1}}, "conditioner.magic"),
        ({"magic": 1}, "magic"),
        ({"network": None}, "network=None"),
        ({"sde": {"class": "Magic"}}, "sde.class='Magic'"),
    ],
)
def test_a_fault_of_format_1_is_named(change, named):
    data = json.loads((FORMAT_1 / "text" / "model.json").read_text())
    assert architecture_from_json(data)
    data = {name: value for name, value in {**data, **change}.items() if value is not REMOVED}
    with pytest.raises(ValueError, match=re.escape(named)) as raised:
        architecture_from_json(data)
    assert "\n" not in str(raised.value)


def test_an_older_snapshot_of_format_1_lacks_fields():
    """The bundled model was written before format 1 had `levels` and `unit_range`. They are at their defaults."""
    data = json.loads((FORMAT_1 / "text" / "model.json").read_text())
    complete = architecture_from_json(data)
    for part, field in (("parametrisation", "levels"), ("parametrisation", "unit_range"), ("network", "remat")):
        del data[part][field]
    assert architecture_from_json(data) == complete
