"""Libraries that Keras and JAX import for what a training never does.

Keras imports matplotlib for its galleries of images, JAX scipy for sparse solvers:
43 MB, and 0.4 of the 1.1 seconds that importing Keras takes. Here they are imported
when these parts of Keras and JAX first use them.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from typing import Any

# Each of them with all its modules that are imported by name, outer ones first.
_LIBRARIES = {
    "matplotlib": ("matplotlib", "matplotlib.pyplot", "matplotlib.patches"),
    "scipy": ("scipy", "scipy.sparse", "scipy.sparse.linalg"),
}


def postpone() -> None:
    """Have Keras, once it is imported, postpone these libraries.

    For the start of a program, on the JAX backend; without effect where Keras is
    imported already. Once it is, the libraries are imported by others as ever.
    """
    if os.environ.get("KERAS_BACKEND") == "jax" and "keras" not in sys.modules:
        sys.meta_path.insert(0, _AtKeras())


class _AtKeras:
    """Finds Keras as Python does, and postpones the libraries while it is imported."""

    loader: Any = None

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec:
            self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__:
            module.__spec__.loader = self.loader
        with _postponed():
            self.loader.exec_module(module)


@contextlib.contextmanager
def _postponed() -> Iterator[None]:
    for library, names in _LIBRARIES.items():
        if library not in sys.modules and importlib.util.find_spec(library):
            for name in names:
                module = sys.modules[name] = _Postponed(name)
                parent, _, last = name.rpartition(".")
                if parent:
                    setattr(sys.modules[parent], last, module)
    others = _OtherParts()
    sys.meta_path.insert(0, others)
    try:
        yield
    finally:
        sys.meta_path.remove(others)
        for library in _LIBRARIES:
            _forget(library)


def _forget(library: str) -> None:
    """Let the next import of a postponed library be the real one."""
    for name in _LIBRARIES[library]:
        if isinstance(sys.modules.get(name), _Postponed):
            sys.modules.pop(name, None)


class _Postponed(types.ModuleType):
    """What stands for a module, and imports it when something of it is asked for."""

    def __init__(self, name: str):
        super().__init__(name)
        # `import` reads these two.
        self.__spec__ = ModuleSpec(name, None)
        self.__path__ = []

    def __getattr__(self, name: str) -> object:
        # Called for what is not here.
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        _forget(self.__name__.partition(".")[0])
        return getattr(importlib.import_module(self.__name__), name)


class _OtherParts:
    """Imports a postponed library after all, where something needs another part."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        library, _, part = name.partition(".")
        if not part or not isinstance(sys.modules.get(library), _Postponed):
            return None
        _forget(library)
        module = importlib.import_module(name)
        # Python takes the module's own spec, and would load it once more.
        module.__spec__ = ModuleSpec(name, _Imported(module))
        return module.__spec__


class _Imported:
    """The loader of a module that is there."""

    def __init__(self, module: types.ModuleType):
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return self.module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self.spec
