"""`jax.jit` with the compiler options that this library's programs run best with, spread over devices by images.

XLA's CPU backend can leave convolutions, matrix products and reductions to a library, YNNPACK. Its reductions are fast.
Its 3 x 3 convolutions take 1.1 to 1.7 times as long as Eigen's. Its products absorb the arithmetic around them, which
copies scales per channel to every pixel. So by default it gets the reductions only. Batch-invariant programs
(`sdejax.batch_invariant`) use its products and convolutions, each by itself, in its kernels that add up in one order:
Eigen splits long sums into as many parts as XLA has threads. Other platforms need no options.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import jax
from jax.core import Tracer

from sdejax.batch_invariance import is_batch_invariant
from sdejax.runtime.sharding import mesh_of, over_images

P = ParamSpec("P")
R = TypeVar("R", covariant=True)
T = TypeVar("T")
_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
_FAST = {_YNNPACK: "LIBRARY_FUSION_TYPE_REDUCE"}
_BATCH_INVARIANT = {
    _YNNPACK: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION",
    "xla_cpu_enable_platform_dependent_math": "False",
}


class ProgramStore(Protocol):
    """Where compiled programs are kept from one start to the next: `program_cache.ProgramCache`."""

    def call(
        self,
        function: Callable[..., Any],
        lower: Callable[..., jax.stages.Lowered],
        static_argnames: Iterable[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """function(*args, **kwargs) by its compiled program; `lower` makes the program if there is none yet."""
        ...

    def remembered(self, name: str, told: str, make: Callable[[], T]) -> T:
        """make(), or its result at an earlier start. The text `told` and the environment must determine the result."""
        ...


class Jitted(Protocol[P, R]):
    """A function as `jit` returns it."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's result, by its compiled program."""
        ...

    def lower(self, *args: P.args, **kwargs: P.kwargs) -> jax.stages.Lowered:
        """The whole program, before it is compiled."""
        ...

    def lower_plain(self, *args: P.args, **kwargs: P.kwargs) -> jax.stages.Lowered:
        """The program without options, for devices that this machine does not have."""
        ...


_store: ProgramStore | None = None


def program_store() -> ProgramStore | None:
    """The store that this process takes its programs from, or None."""
    return _store


def use_program_store(store: ProgramStore | None) -> None:
    """Take programs from this store from now on."""
    global _store
    _store = store


def compiler_options() -> dict[str, str]:
    """The options for `jax.jit(..., compiler_options=...)` on this machine's default backend.

    For programs of your own that call a network. `sample`, the editors and the training step have them already. Inside
    `batch_invariant()` they are the options of batch-invariant programs.
    """
    return _accepted(is_batch_invariant())


@functools.cache
def _accepted(batch_invariant: bool) -> dict[str, str]:
    """The options, if this machine's XLA has them: other versions of XLA have other options and refuse these."""
    if jax.default_backend() != "cpu":
        return {}
    options = _BATCH_INVARIANT if batch_invariant else _FAST
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except Exception:  # each version refuses in its own way
        return {}
    return options


def jit(
    function: Callable[P, R],
    *,
    static_argnames: Iterable[str] = (),
    images: Iterable[str] = (),
    donate_argnums: tuple[int, ...] = (),
) -> Jitted[P, R]:
    """`jax.jit` with `compiler_options()`, asked for at the first call, so that importing touches no device.

    **Arguments:**

    - `function`: has no `*args` or `**kwargs`.
    - `static_argnames`: as in `jax.jit`.
    - `images`: the arguments whose leading axis is the images. If the first of them is spread over a mesh, every device
      computes its own images, without communication (`sharding.over_images`). The function must treat images
      independently.
    - `donate_argnums`: as in `jax.jit`; not together with `images`.

    Inside another `jit`, or under a gradient, it is plain `jax.jit`, because options belong to whole programs. If there
    is a program store, programs come from it. `lower` lowers the whole program; `lower_plain` does so without options,
    for devices that this machine does not have.
    """
    static, images = tuple(static_argnames), tuple(images)
    if donate_argnums:
        return _donating(function, static, donate_argnums)
    signature, untyped = inspect.signature(function), cast(Callable[..., Any], function)

    @functools.wraps(function)
    def body(*, layout: Any, batch_invariant: bool, **given: Any) -> Any:
        del batch_invariant  # tells the two programs apart
        fixed = {name: given.pop(name) for name in static}
        batched = tuple(given.pop(name) for name in images)

        def run(shared: dict[str, Any], *batched: Any) -> Any:
            return untyped(**fixed, **shared, **dict(zip(images, batched, strict=True)))

        return over_images(run, layout, given, batched)

    body.__signature__ = _keyword_only(signature, "layout", "batch_invariant")  # type: ignore[attr-defined]
    all_static = (*static, "layout", "batch_invariant")
    plain = jax.jit(body, static_argnames=all_static)

    @functools.cache
    def whole(batch_invariant: bool) -> Any:  # what jax.jit returns has no public type
        return jax.jit(body, static_argnames=all_static, compiler_options=_accepted(batch_invariant))

    def bound(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """All arguments of `body` by name. The mode is one of them: jax keeps a trace for each of its values."""
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        layout = mesh_of(given.arguments[images[0]]) if images else None
        return {**given.arguments, "layout": layout, "batch_invariant": is_batch_invariant()}

    def lower(**given: Any) -> Any:
        return whole(given["batch_invariant"]).lower(**given)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = bound(args, kwargs)
        if _inside_another_program(args, kwargs):
            return plain(**given)
        if _store is None:
            return whole(given["batch_invariant"])(**given)
        return _store.call(body, lower, all_static, (), given)

    call.lower = lambda *args, **kwargs: lower(**bound(args, kwargs))  # type: ignore[attr-defined]
    call.lower_plain = lambda *args, **kwargs: plain.lower(**bound(args, kwargs))  # type: ignore[attr-defined]
    return cast(Jitted[P, R], call)


def _keyword_only(signature: inspect.Signature, *more: str) -> inspect.Signature:
    """The signature with all parameters by name, none with a default, and `more` of them."""
    kind, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    own = [parameter.replace(kind=kind, default=empty) for parameter in signature.parameters.values()]
    return inspect.Signature([*own, *(inspect.Parameter(name, kind) for name in more)])


def _donating(function: Callable[P, R], static: tuple[str, ...], donate_argnums: tuple[int, ...]) -> Jitted[P, R]:
    """`jit` of a function that takes over the memory of some arguments, as a training step does."""
    how: dict[str, Any] = {"static_argnames": static, "donate_argnums": donate_argnums}
    plain = jax.jit(function, **how)

    @functools.cache
    def whole() -> Any:
        return jax.jit(function, compiler_options=_accepted(False), **how)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (plain if _inside_another_program(args, kwargs) else whole())(*args, **kwargs)

    call.lower = lambda *args, **kwargs: whole().lower(*args, **kwargs)  # type: ignore[attr-defined]
    call.lower_plain = plain.lower  # type: ignore[attr-defined]
    return cast(Jitted[P, R], call)


def _inside_another_program(args: Any, kwargs: Any) -> bool:
    traced = isinstance(jax.device_put(0.0), Tracer)
    return traced or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs)))
