"""diffusers' folders, against what diffusers itself said of the same weights (`benchmarks/parity.py` wrote it down)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import sdejax as sj
from sdejax.nn.params import to_names
from sdejax.pretrained.diffusers.pipeline import betas_of, write_diffusers
from tests.peers import draw, image

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ["ddpm", "ddpm-defaults", "ncsnpp", "ncsnpp-uncentred"]


def described(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def write(folder, name, flat=False, **changes):
    """A folder as diffusers would have written it, with the weights that the peer had."""
    told = described(name)
    unet, scheduler = (folder, folder) if flat else (folder / "unet", folder / "scheduler")
    for path in (unet, scheduler):
        path.mkdir(parents=True, exist_ok=True)
    (unet / "config.json").write_text(json.dumps({**told["unet"], **changes}))
    (scheduler / "scheduler_config.json").write_text(json.dumps(told["scheduler"]))
    weights = {key: draw(key, tuple(shape)) for key, shape in told["weights"].items()}
    (unet / "diffusion_pytorch_model.safetensors").write_bytes(safetensors.numpy.save(weights))
    return folder


@pytest.fixture(scope="module", params=NAMES)
def peer(request, tmp_path_factory):
    """(name, folder, our model of it)."""
    folder = write(tmp_path_factory.mktemp(request.param), request.param)
    return request.param, folder, sj.load(folder)


@jax.jit
def call(denoiser, t, x):
    return denoiser(t, x)


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_the_denoiser_is_the_peers_at_every_noise_level(peer):
    name, _, model = peer
    said = np.load(GOLDEN / f"{name}.npz")
    x = image(0, (1, *model.shape))
    for i, t in enumerate(described(name)["times"]):
        wanted = said[f"denoised-{i}"]
        noisy = model.sde.perturb(jnp.float32(t), x, image(1, x.shape))
        # float32 of both sides is 3e-6. A transposed kernel, query for key, another number of groups or epsilon, sine
        # for cosine, a level off by one, images in [0, 1] taken for [-1, 1]: each is off by 1e-3 and more somewhere.
        assert relative(call(model.denoiser(), jnp.float32(t), noisy), wanted) < 1e-4


@pytest.mark.parametrize(("lam", "key"), [(0.0, "edit-ode"), (1.0, "edit-sde")])
def test_a_whole_edit_is_the_peers_stepping(tmp_path, lam, key):
    """20 of DDIM's and of DDPM's 40 steps, with the noise of our path."""
    model = sj.load(write(tmp_path, "ddpm"))
    levels = 475 - 25 * np.arange(20)
    sampler = sj.Sampler(20, tuple(((levels + 1) / 476).tolist()), sj.Exponential(1), lam)
    guide = image(0, (1, *model.shape))
    result = sj.sdedit(model.denoiser(), model.sde, guide, sj.keys([0]), strength=0.476, sampler=sampler)
    # 2e-6 is found. A grid off by one level, sigma'/sigma in place of its q-power, or D clipped, is off by 1e-2 and
    # more.
    assert relative(result, np.load(GOLDEN / "ddpm.npz")[key]) < 1e-3


def test_the_process_is_the_schedulers(peer):
    name, _, model = peer
    if name.startswith("ncsnpp"):
        # On images in [-1, 1], twice as wide as the scheduler's.
        assert model.sde == sj.VESDE(0.02, 696.0)
        return
    signal = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
    found = 1000.0 * model.sde.time((1.0 / signal - 1.0).astype(np.float32)) - 1.0
    np.testing.assert_allclose(found, np.arange(1000), atol=0.01)


def test_weights_go_out_as_they_came_in(peer, tmp_path):
    """Bit for bit, and the same model again."""
    name, folder, model = peer
    write_diffusers(tmp_path / "out", model)
    before = safetensors.numpy.load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    after = safetensors.numpy.load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    if described(name)["unet"]["flip_sin_to_cos"] and not name.startswith("ncsnpp"):
        # What is written has sine first.
        key = "time_embedding.linear_1.weight"
        after[key] = np.roll(after[key], after[key].shape[1] // 2, axis=1)
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value, err_msg=key)
    again = sj.load(tmp_path / "out")
    assert (again.config, again.sde, again.parametrisation) == (model.config, model.sde, model.parametrisation)
    ours, theirs = to_names(model.params), to_names(again.params)
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_the_older_layout_is_the_same_model(tmp_path):
    """Everything in one folder, attention's weights by their names of 2022."""
    new, old = sj.load(write(tmp_path / "new", "ddpm")), write(tmp_path / "old", "ddpm", flat=True)
    file = old / "diffusion_pytorch_model.safetensors"
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for key, value in safetensors.numpy.load_file(file).items():
        for now, then in renamed.items():
            key = key.replace(f".{now}.", f".{then}.")
        weights[key] = value
    assert any("proj_attn" in key for key in weights)
    file.write_bytes(safetensors.numpy.save(weights))
    for a, b in zip(jax.tree.leaves(new.params), jax.tree.leaves(sj.load(old).params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_bare_unet_takes_the_default_process_and_says_so(tmp_path):
    folder = write(tmp_path, "ddpm")
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.warns(UserWarning, match=r"has no scheduler_config\.json; taking the process of DDPMScheduler"):
        model = sj.load(folder / "unet")
    assert model.sde == sj.DiscreteVPSDE(tuple(np.linspace(1e-4, 0.02, 1000).tolist()))


def test_cosine_betas_follow_the_squared_cosine():
    """Nichol and Dhariwal 2021, eq. 17. Rejects the root in place of the square, and a missing offset."""
    betas = np.asarray(betas_of({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000}))
    t = (np.arange(1000) + 1) / 1000

    def signal(t):
        return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2

    np.testing.assert_allclose(np.cumprod(1 - betas)[:990], (signal(t) / signal(0.0))[:990], rtol=1e-9)
    assert betas[-1] == 0.999


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "_class_name='UNet2DConditionModel': must be UNet2DModel"),
        ({"act_fn": "gelu"}, "act_fn='gelu': must be 'silu'"),
        ({"down_block_types": ["DownBlock2D", "KDownBlock2D"]}, "block types .*KDownBlock2D"),
        ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "must have attention at the same levels"),
        ({"block_out_channels": [32, 48]}, r"block_out_channels=\[32, 48\]: must be multiples of the first"),
        ({"mid_block_scale_factor": 2.0}, "mid_block_scale_factor=2.0: must be 1.0"),
        ({"time_embedding_type": "learned"}, "time_embedding_type='learned'"),
        ({"layers_per_block": 2}, "lacks .* weights of the architecture"),
        ({"time_embedding_type": "fourier"}, "scheduler='DDPMScheduler': must be ScoreSdeVeScheduler"),
        ({"sample_size": 15}, r"shape=\(15, 15, 3\): height and width must be multiples of 2"),
    ],
)
def test_what_is_not_of_the_family_is_refused_by_name(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=f"diffusers=.*{sentence}"):
        sj.load(write(tmp_path, "ddpm", **changes))


@pytest.mark.parametrize("damage", ["cut weights", "no weights", "cut config", "wrong shape"])
def test_damaged_folders_are_named(tmp_path, damage):
    folder = write(tmp_path, "ddpm")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "cut config":
        (folder / "unet" / "config.json").write_text('{"sample_size": 16')
    else:
        arrays = safetensors.numpy.load_file(weights)
        arrays["conv_in.bias"] = arrays["conv_in.bias"][:-1]
        weights.write_bytes(safetensors.numpy.save(arrays))
    wanted = {
        "cut weights": "weights=.*damaged or cut short",
        "no weights": r"diffusion_pytorch_model\.safetensors is missing",
        "cut config": "cannot be understood",
        "wrong shape": r"parameter 'conv_in\.bias' has shape \(31,\), the architecture wants \(32,\)",
    }[damage]
    with pytest.raises(ValueError, match=wanted):
        sj.load(folder)


def test_a_model_that_the_layout_cannot_hold_is_not_written(tmp_path):
    bundled = sj.load(GOLDEN.parent.parent / "checkpoints" / "emoji32")
    with pytest.raises(ValueError, match="heads=4: diffusers' layout holds one head"):
        write_diffusers(tmp_path / "out", bundled)
    assert not (tmp_path / "out").exists()
