"""diffusers' folders, against diffusers' own results for the same weights, which `benchmarks/parity.py` wrote."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import sdejax as sj
from sdejax.model.conditioners import ClassLabels
from sdejax.nn.params import to_names
from sdejax.pretrained.diffusers.pipeline import write_diffusers
from sdejax.pretrained.diffusers.scheduler import betas_of
from tests.peers import CLASS, draw, image

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ["ddpm", "ddpm-classes", "ddpm-defaults", "ncsnpp", "ncsnpp-uncentred"]


def described(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def write(folder, name, flat=False, **changes):
    """Write a folder as diffusers does, with the weights of `benchmarks/parity.py`."""
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


def denoiser_of(model):
    """The denoiser; a model with classes is told the class of the golden file."""
    return model.denoiser(str(CLASS) if model.config.classes else None)


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_the_denoiser_equals_that_of_diffusers_at_every_noise_level(peer):
    name, _, model = peer
    said = np.load(GOLDEN / f"{name}.npz")
    x = image(0, (1, *model.shape))
    for i, t in enumerate(described(name)["times"]):
        wanted = said[f"denoised-{i}"]
        noisy = model.sde.perturb(jnp.float32(t), x, image(1, x.shape))
        # float32 of both sides is 3e-6. A transposed kernel, query for key, another number of groups or epsilon, sine
        # for cosine, a level off by one, images in [0, 1] taken for [-1, 1], another class: each is off by 1e-3 and
        # more at some level.
        assert relative(call(denoiser_of(model), jnp.float32(t), noisy), wanted) < 1e-4


@pytest.mark.parametrize(("lam", "key"), [(0.0, "edit-ode"), (1.0, "edit-sde")])
def test_a_whole_edit_equals_that_of_diffusers(tmp_path, lam, key):
    """20 of the 40 steps of DDIM and of DDPM, with the noise of our path."""
    model = sj.load(write(tmp_path, "ddpm"))
    levels = 475 - 25 * np.arange(20)
    sampler = sj.Sampler(20, tuple(((levels + 1) / 476).tolist()), sj.Exponential(1), lam)
    guide = image(0, (1, *model.shape))
    result = sj.sdedit(model.denoiser(), model.sde, guide, sj.keys([0]), strength=0.476, sampler=sampler)
    # It is 2e-6. A grid off by one level, sigma'/sigma in place of its q-power, or D clipped, is off by 1e-2 and
    # more.
    assert relative(result, np.load(GOLDEN / "ddpm.npz")[key]) < 1e-3


def test_the_process_is_that_of_the_scheduler(peer):
    name, _, model = peer
    if name.startswith("ncsnpp"):
        # Our images are in [-1, 1], twice as wide as the scheduler's.
        assert model.sde == sj.VESDE(0.02, 696.0)
        return
    signal = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
    found = 1000.0 * model.sde.time((1.0 / signal - 1.0).astype(np.float32)) - 1.0
    np.testing.assert_allclose(found, np.arange(1000), atol=0.01)


def test_weights_are_written_as_they_were_read(peer, tmp_path):
    """Bit for bit, and what is written is read as the same model."""
    name, folder, model = peer
    write_diffusers(tmp_path / "out", model)
    before = safetensors.numpy.load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    after = safetensors.numpy.load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    if described(name)["unet"]["flip_sin_to_cos"] and not name.startswith("ncsnpp"):
        # We write the sine first.
        key = "time_embedding.linear_1.weight"
        after[key] = np.roll(after[key], after[key].shape[1] // 2, axis=1)
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(after[key], value, err_msg=key)
    again = sj.load(tmp_path / "out")
    for part in ("config", "sde", "parametrisation", "conditioner"):
        assert getattr(again, part) == getattr(model, part)
    ours, theirs = to_names(model.params), to_names(again.params)
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_the_older_layout_is_the_same_model(tmp_path):
    """All files are in one folder, and attention's weights have their names of 2022."""
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


def test_a_unet_alone_has_the_default_process_with_a_warning(tmp_path):
    folder = write(tmp_path, "ddpm")
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.warns(UserWarning, match=r"scheduler_config\.json.*DDPMScheduler"):
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
        ({"_class_name": "UNet2DConditionModel"}, "_class_name='UNet2DConditionModel'"),
        ({"act_fn": "gelu"}, "act_fn='gelu'"),
        ({"down_block_types": ["DownBlock2D", "KDownBlock2D"]}, "block types .*KDownBlock2D"),
        ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "down_block_types, up_block_types"),
        ({"block_out_channels": [32, 48]}, r"block_out_channels=\[32, 48\]"),
        ({"mid_block_scale_factor": 2.0}, "mid_block_scale_factor=2.0"),
        ({"time_embedding_type": "learned"}, "time_embedding_type='learned'"),
        ({"layers_per_block": 2}, "lacks .* weights of the architecture"),
        ({"time_embedding_type": "fourier"}, "scheduler='DDPMScheduler': .*ScoreSdeVeScheduler"),
        ({"sample_size": 15}, r"shape=\(15, 15, 3\)"),
        ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
        ({"class_embed_type": "identity", "num_class_embeds": 4}, "class_embed_type='identity'"),
        ({"num_class_embeds": 4}, "first 'class_embedding.weight'"),
    ],
)
def test_a_network_of_another_family_is_refused_by_name(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=f"^diffusers=.*{sentence}") as raised:
        sj.load(write(tmp_path, "ddpm", **changes))
    assert "\n" not in str(raised.value)


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
        "cut weights": "^weights=.*",
        "no weights": r"^diffusers=.*diffusion_pytorch_model\.safetensors is missing",
        "cut config": r"^diffusers=.*config\.json",
        "wrong shape": r"^diffusers=.*'conv_in\.bias' has shape \(31,\), .*\(32,\)",
    }[damage]
    with pytest.raises(ValueError, match=wanted):
        sj.load(folder)


def test_a_model_that_the_layout_cannot_express_is_not_written(tmp_path):
    bundled = sj.load(GOLDEN.parent.parent / "checkpoints" / "emoji32")
    with pytest.raises(ValueError, match=r"^heads=4: "):
        write_diffusers(tmp_path / "out", bundled)
    assert not (tmp_path / "out").exists()


def test_classes_are_numbers(tmp_path):
    model = sj.load(write(tmp_path, "ddpm-classes"))
    assert model.conditioner == ClassLabels(("0", "1", "2", "3", "4"), null=False)
    t, x = jnp.float32(0.5), image(1, (2, *model.shape))
    one, other = call(model.denoiser("3"), t, x), call(model.denoiser("1"), t, x)
    assert relative(one, other) > 1e-2
    both = call(model.denoiser(["3", "1"]), t, x)
    np.testing.assert_allclose(both, np.stack([one[0], other[1]]), atol=1e-4)
    for prompt in ("5", ""):
        with pytest.raises(ValueError, match=f"^prompt={prompt!r}: "):
            model.denoiser(prompt)


@pytest.mark.parametrize("null", [True, False])
def test_names_of_classes_are_kept_in_the_pipelines_index(tmp_path, null):
    names = ("cat", "dog", "heron", "newt") if null else ("cat", "dog", "heron", "newt", "wasp")
    read = sj.load(write(tmp_path / "in", "ddpm-classes"))
    write_diffusers(tmp_path / "out", dataclasses.replace(read, conditioner=ClassLabels(names, null)))
    assert sj.load(tmp_path / "out").conditioner == ClassLabels(names, null)
    index = tmp_path / "out" / "model_index.json"
    labels = json.loads(index.read_text())["id2label"]
    for wrong in ({**labels, "9": "yak"}, {**labels, "0": 3}, ["cat"] * 5, {"0": "cat"}):
        index.write_text(json.dumps({"id2label": wrong}))
        with pytest.raises(ValueError, match=r"^diffusers=.*id2label"):
            sj.load(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("flip", [False, True])
def test_a_network_with_classes_equals_diffusers_on_torch(tmp_path, flip):
    """Read from what diffusers writes, and diffusers reads what we write. 1e-5 relative: float32 on both sides."""
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(32, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=7, flip_sin_to_cos=flip,
    ).eval()  # fmt: skip
    network.save_pretrained(tmp_path / "unet")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    model = sj.load(tmp_path)
    x, labels, levels = image(1, (3, 8, 8, 3)), [0, 6, 3], np.float32([0.0, 400.0, 999.0])
    with torch.no_grad():
        given = torch.from_numpy(x).permute(0, 3, 1, 2)
        wanted = network(given, torch.from_numpy(levels), class_labels=torch.tensor(labels)).sample
    wanted = wanted.permute(0, 2, 3, 1).numpy()
    classes = model.conditioner.encode([str(label) for label in labels])
    found = jax.jit(lambda network, *given: network(*given))(model.network, x, levels, classes)
    assert relative(np.asarray(found), wanted) < 1e-5
    write_diffusers(tmp_path / "out", dataclasses.replace(model, conditioner=ClassLabels(tuple("abcdefg"), False)))
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "out" / "unet").eval()
    assert diffusers.DDPMPipeline.from_pretrained(tmp_path / "out").unet.config.num_class_embeds == 7
    with torch.no_grad():
        back = again(given, torch.from_numpy(levels), class_labels=torch.tensor(labels)).sample
    assert relative(back.permute(0, 2, 3, 1).numpy(), wanted) < 1e-5
