"""Checkpoints of score_sde, against slow networks in numpy on the same state dict."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from sdejax.denoiser.prediction import PredictNoise
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.pretrained.score_sde import averaged, from_state, read_score_sde, to_state
from sdejax.sde.rectified_flow import RectifiedFlow
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE, DiscreteVPSDE, SubVPSDE
from tests.reference import Release, Weights

LOW, HIGH, COUNT = 0.01, 50.0, 9
DDPM = {"resblock": "ddpm", "rescale": False, "channels": 32, "groups": 32}
NETWORKS = {
    "NCSN++ at 32 pixels": {"embedding": "fourier", "fir": True, "progressive_input": "residual"},
    "NCSN++ above": {
        "embedding": "fourier",
        "fir": True,
        "progressive_input": "input_skip",
        "progressive": "output_skip",
        "multipliers": (1, 2, 2),
    },
    "NCSN++ with pyramids of features": {
        "embedding": "fourier",
        "fir": True,
        "progressive": "residual",
        "progressive_input": "input_skip",
        "combine": "cat",
    },
    "NCSN++ between DDPM's blocks": {
        "embedding": "fourier",
        "fir": True,
        "resblock": "ddpm",
        "progressive_input": "residual",
    },
    "NCSN++ without a label": {"embedding": "fourier", "fir": True, "conditional": False, "progressive": "output_skip"},
    "DDPM++": {"blocks": 2},
    "DDPM": DDPM,
    "DDPM without convolutions that resample": {**DDPM, "with_conv": False, "attention": (8, 4)},
}


def _state(release, size=8, seed=0):
    """A state dict as the release saves it, from its noise levels to its last layer."""
    weights = Weights(seed)
    release(weights, np.zeros((1, 3, size, size)), np.ones(1), np.ones(1))
    sigmas = np.exp(np.linspace(np.log(HIGH), np.log(LOW), COUNT))
    return {"sigmas": sigmas, **weights.state}


def _images(seed=1, size=8):
    """Two noisy images at three noise levels."""
    return np.random.default_rng(seed).standard_normal((3, size, size, 3)).astype(np.float32)


def _channels_first(x):
    return np.asarray(x, np.float64).transpose(0, 3, 1, 2)


@jax.jit
def _denoise(denoiser, t, x):
    return denoiser(t, x)


def _output(model, t, x):
    """The network's output, computed back from the denoiser."""
    alpha, sigma = (np.asarray(f(t), np.float64)[:, None, None, None] for f in (model.sde.alpha, model.sde.sigma))
    return _channels_first((np.asarray(_denoise(model.denoiser(), t, x), np.float64) * alpha - x) / sigma)


def _check_it_comes_back(model, state, release):
    """The parameters have the names of the reference, their numbers in the list, and their bits."""
    again = to_state(model)
    # Layers that an unconditional network never runs are not kept.
    unread = "sigmas" if release.conditional else r"sigmas|Dense_0|\.0\.W"
    assert set(again) == {name for name in state if not re.search(unread, name)}
    for name, value in again.items():
        np.testing.assert_array_equal(value, state[name], err_msg=name)


def _error(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("name", [name for name, options in NETWORKS.items() if "embedding" in options])
def test_ve_in_continuous_time_is_the_release_on_images_in_0_to_1(name):
    # 1e-4. Rejects, each by more than 0.1: a transposed matrix or window, keys and values exchanged, two modules of
    # one shape exchanged, noise levels not halved or not doubled, and FIR filters of another gain or place.
    release = Release(**NETWORKS[name], scale_by_sigma=True)
    state = _state(release)
    model = from_state(state, size=8)
    assert model.sde == VESDE(2.0 * LOW, 2.0 * HIGH)
    t = np.float32([0.0, 0.5, 1.0])
    level = LOW * (HIGH / LOW) ** t.astype(np.float64)
    x = _images() * np.asarray(2.0 * level, np.float32)[:, None, None, None]
    # The release's own: the score of images in [0, 1], which its networks centre; Tweedie's formula; then 2 D - 1.
    small = (_channels_first(x) + 1.0) / 2.0
    score = release(Weights(state=state), 2.0 * small - 1.0, level, level)
    clean = small + level[:, None, None, None] ** 2 * score
    theirs = (2.0 * clean - 1.0 - _channels_first(x)) / (2.0 * level[:, None, None, None])
    assert _error(_output(model, t, x), theirs) < 1e-4
    _check_it_comes_back(model, state, release)


@pytest.mark.parametrize(
    ("name", "sde"),
    [("DDPM++", VPSDE()), ("DDPM", SubVPSDE()), ("DDPM without convolutions that resample", VPSDE(0.2, 10.0))],
)
def test_vp_and_sub_vp_predict_the_noise_at_999_t(name, sde):
    # 1e-4. Rejects a label 1000 t (0.05), and for DDPM's class skips over sqrt(2) (0.6) and 8 groups for its 32 (0.8).
    release = Release(**NETWORKS[name])
    state = _state(release)
    model = from_state(state, size=8, sde=sde)
    assert model.sde == sde
    t = np.float32([0.0625, 0.25, 1.0])
    x = _images()
    noise = release(Weights(state=state), _channels_first(x), 999.0 * t.astype(np.float64))
    assert _error(_output(model, t, x), -noise) < 1e-4
    _check_it_comes_back(model, state, release)


def test_ve_in_discrete_time_counts_from_the_largest_noise():
    # 1e-4. Rejects an index counted from the smallest noise or from 1 (0.1), and an output that is not
    # over the noise level.
    release = Release(scale_by_sigma=True)
    state = _state(release)
    model = from_state(state, size=8, sde=VESDE(2.0 * LOW, 2.0 * HIGH))
    index = np.array([0, 3, 8])
    t = np.float32(1.0 - index / (COUNT - 1))
    level = state["sigmas"][index]
    x = _images() * np.asarray(2.0 * level, np.float32)[:, None, None, None]
    score = release(Weights(state=state), _channels_first(x), index.astype(np.float64), level)
    assert _error(_output(model, t, x), level[:, None, None, None] * score) < 1e-4


def test_the_label_of_a_chain_of_levels_is_the_number_of_the_level():
    # Exact. Rejects numbers from 1 on, and 999 t.
    model = from_state(_state(Release()), size=8, sde=DiscreteVPSDE((0.1, 0.2, 0.3, 0.4)))
    label = model.parametrisation.label(model.sde, np.float32([0.25, 0.5, 1.0]))
    np.testing.assert_array_equal(label, [0.0, 1.0, 3.0])
    assert model.parametrisation.prediction == PredictNoise()


ALSO = {
    "DDPM's blocks, both pyramids of features": {
        "resblock": "ddpm",
        "progressive": "residual",
        "progressive_input": "residual",
        "multipliers": (1, 2, 2),
    },
    "DDPM's blocks, images, nothing that resamples": {
        "resblock": "ddpm",
        "with_conv": False,
        "progressive": "output_skip",
        "progressive_input": "input_skip",
        "combine": "cat",
    },
    "BigGAN's blocks, features in, images out": {"progressive": "output_skip", "progressive_input": "residual"},
    "BigGAN's blocks, no filter": {"progressive": "residual", "fir": False, "embedding": "positional"},
}


@pytest.mark.parametrize("name", ALSO)
def test_other_structures_come_back_bit_for_bit(name):
    release = Release(**{"fir": True, "embedding": "fourier", **ALSO[name]})
    state = _state(release)
    model = from_state({f"module.{name}": value for name, value in state.items()}, size=8)
    _check_it_comes_back(model, state, release)


PUBLISHED = {
    "NCSN++ at 256 pixels": (
        Release(
            multipliers=(1, 1, 2, 2, 2, 2, 2),
            blocks=2,
            embedding="fourier",
            fir=True,
            progressive="output_skip",
            progressive_input="input_skip",
        ),
        NCSNppConfig.ncsnpp(256, channels=8),
    ),
    "NCSN++ at 32 pixels": (
        Release(multipliers=(1, 2, 2, 2), blocks=4, embedding="fourier", fir=True, progressive_input="residual"),
        NCSNppConfig.ncsnpp(32, channels=8),
    ),
    "DDPM at 32 pixels": (
        Release(multipliers=(1, 2, 2, 2), blocks=2, **DDPM),
        NCSNppConfig.ddpm(32, channels=32, groups=32),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_is_recognised_by_its_layers(name):
    # At a smaller width, which the layers say too. The state dict is made with images of half the side and attention at
    # 8, the same level: nothing in it depends on the side. Rejects another split into levels, and another side.
    release, config = PUBLISHED[name]
    state = _state(dataclasses.replace(release, attention=(8,)), config.shape[0] // 2)
    assert from_state(state).config == config


def test_averages_replace_the_trained_parameters_in_order():
    # Shapes of neighbours are equal, so an order by name (module 10 before module 2) would pass every check of shapes;
    # the frequencies and noise levels, which are not trained, shift all that follows if they are counted.
    state = {f"module.{name}": value for name, value in _state(Release(embedding="fourier", fir=True)).items()}
    trained = [name for name in state if name not in ("module.sigmas", "module.all_modules.0.W")]
    shadow = [np.float32(i) + state[name] for i, name in enumerate(trained)]
    result = averaged(state, shadow)
    assert list(result) == list(state)
    for i, name in enumerate(trained):
        np.testing.assert_array_equal(result[name], state[name] + np.float32(i))
    np.testing.assert_array_equal(result["module.all_modules.0.W"], state["module.all_modules.0.W"])
    with pytest.raises(ValueError, match=f"ema has {len(trained) - 1} parameters, .*{len(trained)} "):
        averaged(state, shadow[1:])
    with pytest.raises(ValueError, match=r"ema has shape \(3, 8, 3, 3\) in the place of 'module.all_modules.1.weight'"):
        averaged(state, [state["module.all_modules.3.weight"].transpose(1, 0, 2, 3), *shadow[1:]])


def _without(state, pattern):
    return {name: value for name, value in state.items() if not re.search(pattern, name)}


def test_another_network_or_argument_is_refused_by_name():
    plain, fourier = _state(Release()), _state(Release(embedding="fourier", fir=True))
    wide = {**plain, "all_modules.4.Conv_1.weight": np.zeros((8, 8, 1, 1), np.float32)}
    refusals = [
        ({}, {}, "has no parameters all_modules.N"),
        (
            _without(plain, r"s\.6\."),
            {"size": 8},
            "all_modules.12 is an attention block, but the nearest network of score_sde has a residual block",
        ),
        (
            _without(plain, r"s\.3\.Conv_1\.bias"),
            {"size": 8},
            r"all_modules.3.Conv_1.bias is missing in residual block",
        ),
        ({**plain, "all_modules.3.NIN_9.b": plain["sigmas"]}, {"size": 8}, r"all_modules.3.NIN_9.b is too many in res"),
        (
            wide,
            {"size": 8},
            r"all_modules.4.Conv_1.weight has shape \(8, 8, 1, 1\), .*\(8, 8, 3, 3\)",
        ),
        (
            {**plain, "all_modules.3.x": plain["sigmas"]} | {"all_modules.99.x": plain["sigmas"]},
            {},
            "all_modules.99 has x",
        ),
        (plain, {"size": 9}, "size=9: "),
        (_state(Release(attention=())), {}, "size=None: "),
        (plain, {"size": 8, "sde": RectifiedFlow()}, r"sde=RectifiedFlow\(\): "),
        (fourier, {"size": 8, "sde": VPSDE()}, r"sde=VPSDE\(.*\): must be a VESDE"),
        (_without(fourier, "sigmas"), {"size": 8}, "sde=None: .*sigmas"),
        (_state(Release(**DDPM)), {"size": 8, "fir": True}, "fir=True: must be False"),
    ]
    for state, how, sentence in refusals:
        with pytest.raises(ValueError, match=sentence):
            from_state(state, **how)


def test_fir_can_be_given_if_the_layers_do_not_show_it():
    assert not from_state(_state(Release()), size=8).config.fir
    assert from_state(_state(Release()), size=8, fir=True).config.fir
    assert from_state(_state(Release(embedding="fourier")), size=8).config.fir


def test_a_checkpoint_gives_its_averages_and_its_hash(tmp_path):
    torch = pytest.importorskip("torch")
    state = {f"module.{name}": value for name, value in _state(Release()).items()}
    trained = [name for name in state if name != "module.sigmas"]
    shadow = [torch.from_numpy(state[name]) + 1.0 for name in trained]
    network = {name: torch.from_numpy(value) for name, value in state.items()}
    content = {"optimizer": {"state": {}, "param_groups": [{"lr": 2e-4}]}, "model": network, "step": 7}
    file = tmp_path / "checkpoint.pth"
    torch.save({**content, "ema": {"decay": 0.999, "num_updates": 7, "shadow_params": shadow}}, file)
    model = read_score_sde(file, size=8)
    assert re.fullmatch("sha256:[0-9a-f]{64}", model.source)
    for name, value in to_state(model).items():
        np.testing.assert_array_equal(value, state[f"module.{name}"] + np.float32(1.0))
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"path='.*checkpoint.pth': is not a checkpoint of score_sde"):
        read_score_sde(file)
