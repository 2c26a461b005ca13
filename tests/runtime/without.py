"""Runs `sdejax` with a jax that lacks private names: NAME,... -- WORD ..."""

import contextlib
import ctypes
import sys

import jax

from sdejax.commands.main import main
from sdejax.runtime import jax_private


def remove(names):
    """Let this library, but not jax itself, find none of these names."""
    found = jax_private._private

    def private(module, name):
        if name.rpartition(".")[2] in names:
            raise jax_private.Missing(f"{module}.{name}")
        return found(module, name)

    jax_private._private = private
    if "get_live_nodes" in names:
        from jax._src.lib import _jax

        with contextlib.suppress(AttributeError):
            del _jax.DistributedRuntimeClient.get_live_nodes
    if "signal" in names:
        ctypes.CDLL = None
    if "settings" in names:
        update = jax.config.update

        def strict(name, value):
            if any(word in name for word in ("recoverability", "collectives_implementation", "preemption_service")):
                raise AttributeError(f"Unrecognized config option: {name}")
            update(name, value)

        setattr(jax.config, "update", strict)  # noqa: B010
        delattr(type(jax.config), "values")


if __name__ == "__main__":
    at = sys.argv.index("--")
    remove(sys.argv[1:at])
    sys.exit(main(sys.argv[at + 1 :]))
