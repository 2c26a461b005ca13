"""Conditioners: prompts become arrays, wrong prompts are named, and training hides the right share of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.model.conditioners import ClassLabels, Unconditional
from tests.model.test_snapshot import of_classes
from tests.tiny import VOCABULARY

ANIMALS = ClassLabels(("cat", "dog", "heron"))


def test_a_class_is_told_by_its_name_or_number():
    found = ANIMALS.encode(["dog", "2", "", "cat"])
    np.testing.assert_array_equal(found, [1, 2, 3, 0])
    assert found.dtype == np.int32
    assert ANIMALS.size == 4
    np.testing.assert_array_equal(ClassLabels(("7", "0"), null=False).encode(["0", "7", "1"]), [1, 0, 1])


@pytest.mark.parametrize("prompt", ["hern", "3", "-1", "cat dog", "²"])
def test_a_class_that_the_model_does_not_know_is_named(prompt):
    with pytest.raises(ValueError, match=f"^prompt={prompt!r}: .*3 classes.*'") as raised:
        ANIMALS.encode(["cat", prompt])
    assert "\n" not in str(raised.value)


def test_without_a_class_for_it_there_is_no_unconditional_prompt():
    with pytest.raises(ValueError, match=r"^prompt='': "):
        ClassLabels(("cat", "dog"), null=False).encode([""])


@pytest.mark.parametrize(("names", "named"), [((), r"=\(\): "), (("cat", "cat"), "'cat'"), (("cat", ""), "''")])
def test_names_that_are_no_classes_are_refused(names, named):
    with pytest.raises(ValueError, match=f"^names.*{named}"):
        ClassLabels(names)


def test_a_model_without_prompts_takes_none():
    assert Unconditional().encode(["", ""]) is None
    with pytest.raises(ValueError, match=r"^prompt='cat': "):
        Unconditional().encode(["", "cat"])


def test_classes_are_hidden_at_their_rate():
    # Five standard errors. Rejects a hidden class that becomes another class, and a rate of its complement.
    labels = jnp.tile(jnp.arange(3, dtype=jnp.int32), 2000)
    dropped = np.asarray(jax.jit(lambda key: ANIMALS.dropped(key, labels, 0.2, 0.9))(jax.random.key(0)))
    hidden = dropped == 3
    assert dropped.dtype == np.int32
    assert abs(hidden.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 6000)
    np.testing.assert_array_equal(dropped[~hidden], labels[~hidden])
    without = ClassLabels(("cat", "dog", "heron"), null=False)
    np.testing.assert_array_equal(without.dropped(jax.random.key(0), labels, 0.2, 0.9), labels)


@pytest.mark.parametrize("conditioner", [ANIMALS, VOCABULARY, Unconditional()], ids=["classes", "words", "none"])
def test_a_conditioner_is_static(conditioner):
    """Frozen and hashable, so that it may be a static argument of a program."""
    assert hash(conditioner) == hash(conditioner)
    with pytest.raises(AttributeError):
        conditioner.names = ()


@jax.jit
def call(denoiser, t, x):
    return denoiser(t, x)


def test_a_model_is_prompted_by_class():
    """By name, by number, and a class for each image; guidance is along the line from no class."""
    model = of_classes()
    t, x = jnp.float32(0.5), jax.random.normal(jax.random.key(0), (2, *model.shape))
    cat, dog, none = (call(model.denoiser(prompt), t, x) for prompt in ("cat", "dog", ""))
    assert min(float(jnp.abs(a - b).max()) for a, b in ((cat, dog), (cat, none), (dog, none))) > 1e-3
    np.testing.assert_array_equal(call(model.denoiser("0"), t, x), cat)
    both = call(model.denoiser(["cat", "dog"]), t, x)
    np.testing.assert_allclose(both, jnp.stack([cat[0], dog[1]]), atol=1e-5)
    np.testing.assert_allclose(call(model.denoiser("cat", 3.0), t, x), 3.0 * cat - 2.0 * none, atol=1e-4)
    away = call(model.denoiser("cat", 2.0, negative="dog"), t, x)
    np.testing.assert_allclose(away, 2.0 * cat - dog, atol=1e-4)
    with pytest.raises(ValueError, match=r"^prompt='heron': "):
        model.denoiser("heron")


def test_another_class_compiles_nothing(compilations):
    model, keys, sampler = of_classes(), sj.keys(range(2)), sj.Sampler(steps=3)
    run = lambda prompt: sj.sample(model.denoiser(prompt), model.sde, keys, model.shape, sampler=sampler)  # noqa: E731
    first, found = run("cat"), []
    assert compilations(lambda: found.append(run("dog"))) == 0
    assert float(jnp.abs(found[0] - first).max()) > 1e-3
