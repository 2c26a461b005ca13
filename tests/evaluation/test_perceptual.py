"""CLIP, DINO and LPIPS with tiny or random weights, if torch and transformers are installed."""

import json

import numpy as np
import pytest

from sdejax.evaluation.perceptual import load_clip, load_dino, load_lpips


def _images(n=3, side=40, channels=3, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, side, side, channels)).astype(np.float32)


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch").manual_seed(0)
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def clip(transformers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    config = transformers.CLIPConfig(
        text_config={**size, **special, "vocab_size": len(words), "max_position_embeddings": 12},
        vision_config={**size, "image_size": 32, "patch_size": 8},
        projection_dim=8,
        initializer_factor=5.0,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    square = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square).save_pretrained(folder)
    return load_clip(str(folder))


@pytest.fixture(scope="module")
def dino(transformers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dino")
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=1, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    square = {"height": 28, "width": 28}
    transformers.BitImageProcessor(size={"shortest_edge": 28}, crop_size=square).save_pretrained(folder)
    return load_dino(str(folder))


def _write_alexnet(path, draw):
    """Write the convolutions of torchvision's AlexNet with its names and sizes. `draw` makes an array of a shape."""
    import torch  # pyright: ignore[reportMissingImports]

    # number, outputs, inputs, side
    layers = [(0, 64, 3, 11), (3, 192, 64, 5), (6, 384, 192, 3), (8, 256, 384, 3), (10, 256, 256, 3)]
    weights = {"classifier.1.bias": torch.zeros(1)}  # torchvision's file has a classifier, which is not used
    for number, out, into, side in layers:
        weights[f"features.{number}.weight"] = draw(out, into, side, side) * (2.0 / (into * side**2)) ** 0.5
        weights[f"features.{number}.bias"] = torch.zeros(out)
    torch.save(weights, path)
    return str(path)


@pytest.fixture(scope="module")
def lpips(transformers, tmp_path_factory):
    import torch  # pyright: ignore[reportMissingImports]

    pytest.importorskip("torchvision")  # lpips imports it
    pytest.importorskip("lpips")
    return load_lpips(_write_alexnet(tmp_path_factory.mktemp("lpips") / "alexnet.pth", torch.randn))


def test_a_clip_score_compares_an_image_with_its_own_text(clip):
    """A pair has the same score alone and in a batch, so the padding of short texts has no effect.

    The tolerance is 1e-3 of 100, for float32. Rejects images paired with other texts, a missing attention mask, and a
    score below 0.
    """
    images, texts = _images(), ["red heart", "a", "a text of more letters than the model has places for"]
    scores = clip(images, texts)
    assert scores.shape == (3,) and (scores >= 0).all() and (scores <= 100).all() and scores.max() > 0
    alone = [clip(images[i : i + 1], texts[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(scores, alone, atol=1e-3)
    assert not np.allclose(scores, clip(images, texts[::-1]), atol=1e-2)


def test_dino_of_an_image_with_itself_is_1_and_with_another_less(dino):
    images = _images()
    np.testing.assert_allclose(dino(images, images), 1.0, atol=1e-5)
    other = dino(images, _images(seed=1))
    assert (other < 1 - 1e-4).all()
    np.testing.assert_allclose(other, dino(_images(seed=1), images), atol=1e-6)


@pytest.mark.parametrize("side", [8, 32, 64, 80])
def test_lpips_is_0_for_equal_images_and_grows_with_the_change(lpips, side):
    """This includes images that are so small that AlexNet alone would reduce them to nothing."""
    images = _images(2, side)
    np.testing.assert_allclose(lpips(images, images), 0.0, atol=1e-6)
    noise = 0.5 * _images(2, side, seed=1)
    near, far = lpips(images, images + 0.1 * noise), lpips(images, images + noise)
    assert (near > 0).all() and (near < far).all() and np.isfinite(far).all()


def test_the_weights_are_those_of_the_file(lpips, tmp_path):
    """The same weights give the same score, and other weights another. Rejects a network that keeps random weights."""
    import torch  # pyright: ignore[reportMissingImports]

    images, other = _images(2), _images(2, seed=1)
    path = tmp_path / "alexnet.pth"
    ones = [load_lpips(_write_alexnet(path, torch.ones))(images, other) for _ in range(2)]
    np.testing.assert_array_equal(ones[0], ones[1])
    assert not np.allclose(ones[0], lpips(images, other), rtol=1e-3)


@pytest.mark.parametrize("name", ["dino", "lpips"])
def test_grey_images_score_like_colour_images(name, request):
    score, grey = request.getfixturevalue(name), _images(2, 40, 1)
    colour = np.repeat(grey, 3, -1)
    np.testing.assert_allclose(score(grey, -grey), score(colour, -colour), atol=1e-6)


@pytest.mark.parametrize(("load", "option"), [(load_clip, "clip"), (load_dino, "dino"), (load_lpips, "lpips")])
def test_missing_weights_are_one_sentence(load, option, tmp_path):
    where = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"^{option}='.*nowhere'") as error:
        load(where)
    assert "\n" not in str(error.value)
