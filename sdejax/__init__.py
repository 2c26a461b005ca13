"""sdejax: score-based SDE models in JAX, and the image editors that run on them.

`__init__.pyi` is the list of public names. Each is imported when it is first used, so that `import sdejax` is quick and
touches no device.
"""

import sys
import types
from typing import Any

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


class _Package(types.ModuleType):
    """Keeps `sdejax.edit` the function: importing a file of the folder edit/ would put the folder in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
