"""Checkpoints of DDPM's port to PyTorch, against a slow network in numpy on the same state dict."""

import jax
import numpy as np
import pytest

from sdejax.pretrained.ddpm import from_state, read_ddpm
from tests.reference import Ported, Weights

PORTED = Ported(blocks=2)


def _state(ported=PORTED, seed=0):
    weights = Weights(seed)
    ported(weights, np.zeros((1, 3, 8, 8)), np.ones(1))
    return weights.state


@jax.jit
def _denoise(denoiser, t, x):
    return denoiser(t, x)


def test_it_predicts_the_noise_at_its_levels():
    # 1e-4. Rejects the product of 1 - beta taken one level late (0.003 at every level) and, by 0.02 or more at the last
    # level, a transposed matrix, keys and values or the middle's blocks exchanged, labels from 1 on, padding before the
    # strided convolution, and norms of fewer groups.
    state = _state()
    model = from_state({f"module.{name}": value for name, value in state.items()}, size=8)
    level = np.array([0, 250, 999])
    x = np.random.default_rng(1).standard_normal((3, 8, 8, 3)).astype(np.float32)
    noise = PORTED(Weights(state=state), x.transpose(0, 3, 1, 2).astype(np.float64), level.astype(np.float64))
    noise = noise.transpose(0, 2, 3, 1)
    kept = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))[level][:, None, None, None]
    clean = (x - np.sqrt(1.0 - kept) * noise) / np.sqrt(kept)
    ours = np.asarray(_denoise(model.denoiser(), np.float32((level + 1.0) / 1000.0), x), np.float64)
    # Each image by its own size: at the last level a clean image is 150 times the noisy one.
    for own, theirs in zip(ours, clean, strict=True):
        assert np.abs(own - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_the_side_of_the_images_follows_from_attention_at_16_pixels():
    config = from_state(_state()).config
    assert (config.shape, config.attention) == ((32, 32, 3), (16,))
    with pytest.raises(ValueError, match=r"^size=None: "):
        from_state(_state(Ported(attention=(8, 4))))
    with pytest.raises(ValueError, match=r"^size=7: "):
        from_state(_state(), size=7)


def test_another_network_is_refused_by_the_name_of_a_parameter():
    state = _state()
    refusals = [
        ({}, "lacks the parameters conv_in.weight and down.0.block.0.conv1.weight"),
        (
            {name: v for name, v in state.items() if name != "mid.attn_1.q.bias"},
            "'mid.attn_1.q.bias' of DDPM is missing",
        ),
        (
            {**state, "up.0.attn.0.q.bias": state["conv_in.bias"]},
            "has the parameter 'up.0.attn.0.q.bias', which",
        ),
        (
            {**state, "conv_out.weight": state["conv_in.weight"]},
            r"'conv_out.weight' has shape \(32, 3, 3, 3\)",
        ),
        ({**state, "conv_in.weight": np.zeros((48, 3, 3, 3))}, "conv_in.weight has 48 channels"),
    ]
    for wrong, sentence in refusals:
        with pytest.raises(ValueError, match=sentence):
            from_state(wrong, size=8)


def test_of_the_list_that_training_writes_the_average_is_taken(tmp_path):
    torch = pytest.importorskip("torch")
    network = {name: torch.from_numpy(value) for name, value in _state().items()}
    average = {name: value + 1.0 for name, value in network.items()}
    file = tmp_path / "celeba.ckpt"
    for content, bias in [
        (network, network),
        ({"state_dict": network}, network),
        ([{f"module.{name}": value for name, value in network.items()}, {"state": {}}, 3], network),
        ([network, {"state": {}}, 3, average], average),
    ]:
        torch.save(content, file)
        model = read_ddpm(file, size=8)
        np.testing.assert_array_equal(model.params["conv_in"]["bias"][...], bias["conv_in.bias"].numpy())
        assert model.source.startswith("sha256:")
    torch.save({"weights": network}, file)
    with pytest.raises(ValueError, match=r"^path='.*celeba.ckpt': is not a checkpoint of DDPM"):
        read_ddpm(file)
