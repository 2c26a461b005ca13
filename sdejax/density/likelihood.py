r"""log p(x) of given images, by the probability-flow ODE.

Eq. 8 with lam = 0, score = (alpha D - x) / sigma^2 and u = x / alpha is du = (u - D) d(log l) on the noise level
l = sqrt(tau) = sigma / alpha, from the data up to the noise. In the scale of eq. 10, v = x / sqrt(alpha^2 + sigma^2)
= a u with a = 1 / sqrt(1 + tau):

    (15) dv / d(log l) = a^2 v - a D(t, x)

whatever the process. The change of variables (Chen et al. 2018; Song et al. 2021, eq. 39) takes the density along,
from the level l_0 of the image to l_T, where v is N(0, tau_T / (1 + tau_T)):

    (16) log p(u_0) = log p(v_T) + int div d(log l) + d log a_0,   div = trace of d(a^2 v - a D)/dv,   d values
    (17) div = E[e^T (d(a^2 v - a D)/dv) e] for probes e of independent signs (Hutchinson 1990; Grathwohl et al. 2019)

Of data whose pixels are N(m, s^2), u_T = m + (u_0 - m) sqrt(r) and int (1 - dD/du) d(log l) = log(r) / 2 for each
value, with r = (s^2 + tau_T) / (s^2 + tau_0).
"""

import dataclasses
import math
from functools import partial
from typing import Literal, cast

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from sdejax.denoiser.protocol import Denoiser
from sdejax.noise.keys import check_keys
from sdejax.pytrees import pytree, split_per_image
from sdejax.runtime.jit import jit
from sdejax.sde.base import SDE

Divergence = Literal["hutchinson", "exact"]
_SOLVER, _CALLS = diffrax.Tsit5(), 6  # calls of a step: the first of its seven stages is the last of the step before
_FIRST, _SMALLEST = 0.05, 1e-6  # lengths of steps in log l; float32 resolves none below the second
_HALF_RANGE = 127.5  # 8 bits are 127.5 (x + 1)


@pytree
@dataclasses.dataclass(frozen=True)
class Likelihood:
    """`value` (b,) of each image, in the unit of the function that gave it, and the `evaluations` (b,) that it took.

    An evaluation is one of the denoiser with its derivative along each probe.
    """

    value: jax.Array
    evaluations: jax.Array


def log_likelihood(
    denoiser: Denoiser,
    sde: SDE,
    images: ArrayLike,
    keys: jax.Array,
    *,
    level: ArrayLike | None = None,
    divergence: Divergence = "hutchinson",
    probes: int = 1,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    max_steps: int = 4096,
) -> Likelihood:
    """The log density of images under a model, by the probability-flow ODE (eq. 15 to 17).

    **Arguments:**

    - `denoiser`: a callable pytree D(t, x), such as `model.denoiser("red apple")`.
    - `sde`: the process that `denoiser` belongs to.
    - `images`: (b, *shape), floating point, in the data's range.
    - `keys`: (b,) keys, which the probes are drawn from; the result of image k depends on image k and key k alone.
    - `level`: the noise level sigma / alpha that the images are taken to have, the process's `sqrt(tau_min)` by
      default. The density is that of data with so much noise added.
    - `divergence`: "hutchinson" estimates it without bias in the log density; "exact" costs a derivative for each
      value of an image, and is for small ones.
    - `probes`: how many derivatives "hutchinson" averages; each image keeps its probes along its path.
    - `rtol`, `atol`: what a step may err by: in the root mean square over the values of v, and in the log
      determinant per value. Steps are chosen for each image. Traced numbers, as `level` is: others compile nothing.
    - `max_steps`: the most steps of an image, refused ones counted.

    **Returns:** a `Likelihood` with log p in nats, for all the values of an image together. Jit-compiled: another
    denoiser of the same structure compiles nothing. Spread over devices as `keys` are.

    **Raises:** `ValueError` for an argument outside its range or of the wrong shape, or if an image is not finished
    within `max_steps`. (Inside a `jit` of your own its value is nan.)
    """
    images = jnp.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images dtype={images.dtype}: must be floating point (8 bits: bits_per_dimension)")
    _check_batch(images, keys)
    if divergence not in ("hutchinson", "exact"):
        raise ValueError(f"divergence={divergence!r}: must be hutchinson or exact")
    for name, count in (("probes", probes), ("max_steps", max_steps)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name}={count}: must be a whole number of at least 1")
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if not isinstance(tolerance, Tracer) and not 0.0 < tolerance < math.inf:
            raise ValueError(f"{name}={tolerance}: must be above 0 and finite")
    level = math.sqrt(sde.tau_min) if level is None else level
    _check_level(sde, level)
    numbers = tuple(np.float32(x) if isinstance(x, float) else x for x in (level, rtol, atol))
    used = 0 if divergence == "exact" else probes
    # Under a derivative the arguments are tracers, and the adjoint must serve both of its modes.
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((denoiser, numbers, images)))
    found = cast(Likelihood, _log_likelihood(denoiser, numbers, images, keys, sde, used, max_steps, traced))
    if isinstance(found.value, Tracer):
        return found
    finite = jnp.isfinite(found.value)
    if not bool(finite.all()):
        first = int(finite.argmin())
        raise ValueError(
            f"max_steps={max_steps}, rtol={rtol}, atol={atol}: image {first} did not come to the end; allow more steps "
            "or larger tolerances, and see that the image and the denoiser are finite"
        )
    return found


def bits_per_dimension(
    denoiser: Denoiser,
    sde: SDE,
    images: ArrayLike,
    keys: jax.Array,
    *,
    level: ArrayLike | None = None,
    divergence: Divergence = "hutchinson",
    probes: int = 1,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    max_steps: int = 4096,
) -> Likelihood:
    """Bits for each value of 8-bit images, uniformly dequantised (Theis et al. 2016; Song et al. 2021, section 4.3).

    A value v of 0 to 255 becomes (v + w - 1/2) / 127.5 - 1 with w uniform in [0, 1], drawn from the image's key; the
    result is log2(127.5) - log2 p / d. In the mean over w it is no less than what the model needs to code the image.

    **Arguments:** as `log_likelihood`, with `images` (b, *shape) of type uint8.

    **Returns:** a `Likelihood` with bits per value.

    **Raises:** as `log_likelihood`.
    """
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8:
        raise ValueError(f"images dtype={images.dtype}: must be uint8 (floating point: log_likelihood)")
    _check_batch(images, keys)
    found = log_likelihood(
        denoiser,
        sde,
        _dequantised(images, keys),
        keys,
        level=level,
        divergence=divergence,
        probes=probes,
        rtol=rtol,
        atol=atol,
        max_steps=max_steps,
    )
    size = math.prod(images.shape[1:])
    return Likelihood(math.log2(_HALF_RANGE) - found.value / (size * math.log(2.0)), found.evaluations)


def _check_batch(images: jax.Array, keys: jax.Array) -> None:
    check_keys(keys)
    if images.ndim < 2 or images.shape[0] != keys.shape[0]:
        raise ValueError(f"images shape={images.shape}: must be (b, *shape) with b the number of keys, {keys.shape[0]}")


def _check_level(sde: SDE, level: ArrayLike) -> None:
    if isinstance(level, Tracer):
        return
    with jax.ensure_compile_time_eval():
        least = math.sqrt(float(sde.tau(0.0)))
    # Rounding of the smallest level itself.
    if np.ndim(level) != 0 or not max((1.0 - 1e-6) * least, 1e-6) <= float(np.asarray(level)) < math.sqrt(sde.tau_max):
        raise ValueError(
            f"level={level}: must be one noise level of the process, at least {max(least, 1e-6):g} and below "
            f"{math.sqrt(sde.tau_max):g}"
        )


@partial(jit, images=("images", "keys"))
def _dequantised(images, keys):
    def one(image, key):
        return (image + jax.random.uniform(_split(key)[1], image.shape) - 0.5) / _HALF_RANGE - 1.0

    return jax.vmap(one)(images, keys)


def _split(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys of an image's probes and of its dequantisation."""
    probes, noise = jax.random.split(key)
    return probes, noise


@partial(jit, static_argnames=("sde", "probes", "max_steps", "both_modes"), images=("images", "keys"))
def _log_likelihood(denoiser, numbers, images, keys, sde, probes, max_steps, both_modes):
    """`probes` 0 is the exact divergence; `both_modes` is for derivatives in forward as well as in reverse mode."""
    level, rtol, atol = numbers
    marked, rebuild = split_per_image(denoiser)
    controller = diffrax.PIDController(rtol, atol, dtmin=_SMALLEST, force_dtmin=False, norm=_error)
    adjoint = diffrax.DirectAdjoint() if both_modes else diffrax.RecursiveCheckpointAdjoint()

    def one(marked, image, key):
        # Their outer products sum to the identity, in the mean or exactly.
        directions = (
            jax.random.rademacher(_split(key)[0], (probes, *image.shape), image.dtype) / math.sqrt(probes)
            if probes
            else jnp.eye(image.size, dtype=image.dtype).reshape(-1, *image.shape)
        )
        alone = rebuild([leaf[None] for leaf in marked])
        return _image(alone, sde, image, directions, jnp.log(level), controller, max_steps, adjoint)

    return jax.vmap(one)(marked, images, keys)


def _image(
    denoiser: Denoiser,
    sde: SDE,
    image: jax.Array,
    directions: jax.Array,
    start: jax.Array,
    controller: diffrax.PIDController,
    max_steps: int,
    adjoint: diffrax.AbstractAdjoint,
) -> Likelihood:
    """Eq. 16 for one image, its log determinant kept per value: nan if the integration fails."""

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda log_level, state, args: _field(*args, sde, log_level, state[0])),
        _SOLVER,
        start,
        0.5 * math.log(sde.tau_max),
        _FIRST,
        (_shrink(start) * image, jnp.zeros((), image.dtype)),
        (denoiser, directions),
        stepsize_controller=controller,
        max_steps=max_steps,
        throw=False,
        adjoint=adjoint,
    )
    assert solution.ys is not None
    v, log_determinant = (x[-1] for x in solution.ys)
    variance = sde.tau_max / (1.0 + sde.tau_max)
    prior = -0.5 * jnp.sum(jnp.square(v)) / variance - 0.5 * image.size * math.log(2.0 * math.pi * variance)
    nats = prior + image.size * (log_determinant + jnp.log(_shrink(start)))
    ended = solution.result == diffrax.RESULTS.successful
    return Likelihood(jnp.where(ended, nats, jnp.nan), _CALLS * solution.stats["num_steps"] + 1)


@partial(jax.jit, static_argnums=(2,))  # diffrax traces it four times; jit keeps the first
def _field(denoiser, directions, sde, log_level, v):
    """Eq. 15, and the divergence per value of eq. 17 or its sum over a basis."""
    t = sde.time(jnp.exp(2.0 * log_level))
    a, scale = _shrink(log_level), jnp.sqrt(jnp.square(sde.alpha(t)) + jnp.square(sde.sigma(t)))
    slope, derivative = jax.linearize(lambda v: a * (a * v - denoiser(t, scale * v[None])[0]), v)
    return slope, jnp.sum(directions * jax.vmap(derivative)(directions)) / v.size


def _shrink(log_level: jax.Array) -> jax.Array:
    """a = 1 / sqrt(1 + tau)."""
    return jnp.exp(-0.5 * jax.nn.softplus(2.0 * log_level))


def _error(scaled: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The error of a step in units of its tolerance; the determinant's is one number, and would drown in a mean."""
    v, log_determinant = scaled
    error = jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(v))), jnp.abs(log_determinant))
    return jnp.where(jnp.isnan(error), jnp.inf, error)
