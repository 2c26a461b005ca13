"""A plan counts what there is: the collectives, memory and arithmetic of programs for which they are known."""

import dataclasses
import importlib.util
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import sdejax as sj
from sdejax.commands.main import main
from sdejax.jobs.plan.collectives import collectives
from sdejax.jobs.plan.plan import plan
from sdejax.jobs.plan.programs import abstract_model, generation, training
from sdejax.jobs.plan.report import as_record, as_text
from sdejax.jobs.plan.topology import topology_of
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.training.config import Config, load_config

CONFIGS = Path(__file__).parents[2] / "configs"
COLLECTIVES = {"all-gather", "all-reduce", "reduce-scatter"}  # parameters are gathered, gradients and losses are summed
# Its state is large compared with the temporaries of a step on four images, so spreading the state shows.
WIDE = Config(
    name="wide",
    data="nowhere",
    network=NCSNppConfig(shape=(8, 8, 3), channels=128, multipliers=(1,), blocks=1, attention=(), dropout=0.0),
    batch=4,
)
tpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install 'sdejax[plan]'")


def compiled(function, shape):
    mapped = jax.shard_map(function, mesh=sj.image_mesh(), in_specs=P("image"), out_specs=P("image"), check_vma=False)
    return jax.jit(mapped).lower(jax.ShapeDtypeStruct(shape, jnp.float32)).compile().as_text() or ""


def test_each_kind_of_collective_is_counted_with_its_bytes():
    assert sj.image_mesh().size == 4
    x = (8, 6)  # each device has (2, 6) float32
    functions = {
        "all-reduce": (lambda x: jax.lax.psum(x, "image"), 2 * 6 * 4),
        "all-gather": (lambda x: jax.lax.all_gather(x, "image", tiled=True), 8 * 6 * 4),
        "collective-permute": (lambda x: jax.lax.ppermute(x, "image", [(0, 1), (1, 0)]), 2 * 6 * 4),
        "reduce-scatter": (lambda x: jax.lax.psum_scatter(jnp.tile(x, (2, 1)), "image", tiled=True), 1 * 6 * 4),
    }
    for kind, (function, size) in functions.items():
        assert collectives(compiled(function, x)) == {kind: (1, size)}, kind
    assert collectives(compiled(lambda x: jnp.exp(x) @ x.T, x)) == {}
    # A collective in a loop is in the text once.
    looped = partial(jax.lax.fori_loop, 0, 5, lambda _, x: jax.lax.ppermute(x, "image", [(0, 1), (1, 2)]))
    assert collectives(compiled(looped, x)) == {"collective-permute": (1, 2 * 6 * 4)}


def test_a_split_collective_counts_once_and_a_combined_one_with_all_its_results():
    text = """
  %a = (bf16[4,8]{1,0:T(8,128)}, bf16[16,8]{1,0:T(8,128)}) all-gather-start(%p), dimensions={0}
  %b = bf16[16,8]{1,0:T(8,128)(2,1)S(1)} all-gather-done(%a)
  %c = (f32[3]{0:T(128)}, pred[5]{0}, /*index=2*/f32[]{:T(128)}) all-reduce(%x, %y, %z), to_apply=%add
  %d = f32[7]{0} fusion(%b), kind=kLoop, calls=%e, metadata={op_name="the = f32[9] all-to-all(x)"}
  ROOT %f = f32[7]{0} add(%all-to-all.1, %d)
"""
    assert collectives(text) == {"all-gather": (1, 16 * 8 * 2), "all-reduce": (1, 3 * 4 + 5 + 4)}


def test_the_arithmetic_is_that_of_the_network_at_each_step_divided_by_the_chips():
    model, four, two = abstract_model(WIDE), topology_of("h100:4"), topology_of("h100:2")
    made = plan(generation(model, four, 8, sj.Sampler(steps=5)), four)
    # Convolutions and products need 2 operations for each weight and pixel. A 3 x 3 kernel needs fewer at the edges.
    kernels = [leaf.shape for leaf in jax.tree.leaves(model.params) if len(leaf.shape) == 4]
    inner = ((3 * 8 - 2) / 8) ** 2
    needed = sum(2 * 64 * np.prod(shape[2:]) * (inner if shape[0] == 3 else 1) for shape in kernels)
    # Norms, activations and noise are a few per cent. A plan that ignores the steps has a fifth of the operations, and
    # one that does not divide them over the chips four times as many.
    assert 1.0 < made.flops / (5 * 2 * needed) < 1.15
    assert made.collectives == {}
    on_two = plan(generation(model, two, 8, sj.Sampler(steps=5)), two)
    np.testing.assert_allclose(on_two.flops / made.flops, 2.0, rtol=0.01)
    record = as_record(made)
    assert record["fits"] is None and record["bytes_accessed"] is None and record["bound"] is None
    assert record["memory"]["arguments"] >= 4 * model.parameter_count
    assert as_text(made).count("not known") >= 4


def check_spreading(plans, model, part):
    """Laws of the training step, planned with its state spread over more and more chips."""
    state = 4 * 4 * model.parameter_count  # parameters, an average and two moments, float32
    large = [leaf.size * 4 for leaf in jax.tree.leaves(model.params) if leaf.size >= 2**14]
    for fsdp, made in plans.items():
        # Any other collective would move images, or what is computed from them, between chips.
        assert set(made.collectives) <= COLLECTIVES
        summed = sum(made.collectives.get(kind, (0, 0))[1] for kind in ("all-reduce", "reduce-scatter"))
        # Up to a hundredth less: equal gradients, of biases that are added to the same sum, are summed once.
        assert 0.99 / fsdp < summed / (4 * model.parameter_count) < 1.01
        # Each parameter that is spread is gathered once, and not again for the gradient.
        gathered = made.collectives.get("all-gather", (0, 0))[1]
        assert gathered == (sum(large) if fsdp > 1 else 0)
        small = 4 * (4 * model.parameter_count - sum(large))
        expected = small + 4 * sum(large) / fsdp
        assert abs(made.memory["arguments"] - expected) < 0.02 * state
    sizes = [part(made) for made in plans.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.75 * sizes[0]


@pytest.mark.slow
def test_a_training_step_gathers_parameters_and_sums_gradients_and_nothing_else():
    model, four = abstract_model(WIDE), topology_of("h100:4")
    plans = {fsdp: plan(training(WIDE, model, four, fsdp=fsdp), four) for fsdp in (2, 4)}
    check_spreading(plans, model, lambda made: made.memory["arguments"])


@pytest.mark.slow
@tpu
def test_a_training_step_on_tpus_takes_less_memory_as_fsdp_grows():
    model, chips = abstract_model(WIDE), topology_of("v5e:2x2")
    plans = {fsdp: plan(training(WIDE, model, chips, fsdp=fsdp), chips, quick=True) for fsdp in (1, 2, 4)}
    check_spreading(plans, model, lambda made: made.total_memory)


@pytest.mark.slow
@tpu
def test_images_of_256_pixels_are_made_on_sixteen_tpus_without_communication():
    config = load_config(CONFIGS / "celebahq256_ve.py")
    model, chips = abstract_model(config), topology_of("v5e:4x4")
    made = plan(generation(model, chips), chips, quick=True)
    assert made.collectives == {}
    record = as_record(made)
    assert record["fits"] is True and record["chips"] == 16
    assert record["memory_total"] > 4 * model.parameter_count
    # 20 steps of the network of Song et al., 0.5 TFLOP each.
    assert 8e12 < record["flops"] < 1.4e13


def test_the_repeats_of_a_loop_are_counted_and_captions_need_no_data():
    config = dataclasses.replace(WIDE, captions=True, accumulate=2)
    model, one = abstract_model(config), topology_of("h100:1")
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model.params))
    assert training(config, model, one).repeats == 2
    programs = [generation(model, one, 1, sj.Sampler(steps=7), guidance) for guidance in (None, 2.0)]
    assert [program.repeats for program in programs] == [7, 7]
    alone, guided = ((program.lowered.cost_analysis() or {})["flops"] for program in programs)
    assert 1.9 < guided / alone < 2.1


def test_the_command_prints_json_and_text(tmp_path, capsys):
    path = tmp_path / "wide.py"
    network = "shape=(8, 8, 3), channels=16, multipliers=(1,), blocks=1, attention=()"
    path.write_text(
        "from sdejax.training.config import Config\nfrom sdejax.nn.ncsnpp.config import NCSNppConfig\n"
        f"def get_config():\n    return Config(name='t', data='none', network=NCSNppConfig({network}))\n"
    )
    assert main(["plan", str(path), "--topology", "a100:4", "--steps", "3", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["chips"] == record["batch"] == 4 and record["loop_repeats"] == 3
    np.testing.assert_allclose(record["seconds"], record["flops"] / 312e12)
    assert main(["plan", str(path), "--topology", "a100:4", "--steps", "3"]) == 0
    assert "4 x NVIDIA A100" in capsys.readouterr().out


def test_without_libtpu_one_sentence_tells_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"topology='v5e:4x4': .*sdejax\[plan\]"):
        topology_of("v5e:4x4")


@tpu
def test_a_batch_that_does_not_fit_is_one_sentence():
    model, chip = abstract_model(WIDE), topology_of("v5e:1x1")
    with pytest.raises(ValueError, match=r"batch=1000000: .* v5e:1x1: .*15\.75G"):
        plan(generation(model, chip, 1_000_000), chip, quick=True)


@tpu
def test_a_shape_that_is_not_built_is_refused():
    for name in ("v5e:3x3", "v5p:7x2x2"):
        with pytest.raises(ValueError, match=f"topology='{name}': "):
            topology_of(name)
    assert len(topology_of("v4:2x2x2").devices) == 8
    assert len(topology_of("v5e:1x1").devices) == 1
