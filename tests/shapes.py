"""Checks of the array shapes that annotations state, in tests only.

jaxtyping's import hook gives every function of the rooms below to `check`, which has beartype check the annotations
that hold a shape, and those alone: what else a function takes is checked by pyright, and by the library itself where
users can be wrong. `__init__` is left out, because jax rebuilds a pytree with other things than arrays in its fields.
"""

import typing
from collections.abc import Callable

import jaxtyping

ROOMS = ["sdejax.nn", "sdejax.sde", "sdejax.denoiser"]


def install() -> None:
    """Check the rooms, from their first import on. Does nothing if beartype is not installed."""
    try:
        import beartype  # noqa: F401
    except ImportError:
        return
    jaxtyping.install_import_hook(ROOMS, "tests.shapes.check")


def check(function: Callable) -> Callable:
    """The function with those of its annotations checked that hold a shape."""
    from beartype import beartype

    shapes = {name: hint for name, hint in function.__annotations__.items() if _has_shape(hint)}
    if not shapes or function.__name__ == "__init__":
        return function
    function.__annotations__ = shapes
    return beartype(function)


def _has_shape(hint: object) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(_has_shape(part) for part in typing.get_args(hint))
