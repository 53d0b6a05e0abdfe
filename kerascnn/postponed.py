"""Libraries that Keras and JAX import for what a training never does.

Keras imports matplotlib for its galleries of images, JAX scipy for sparse solvers:
43 MB, and 0.4 of the 1.1 seconds that importing Keras takes. Here they are imported
when something of them is first asked for.
"""

import importlib
import importlib.util
import sys
import types
from importlib.machinery import ModuleSpec

# Each of them with the modules that are imported by name.
_LIBRARIES = {
    "matplotlib": ("pyplot", "patches"),
    "scipy": ("sparse", "sparse.linalg"),
}


def postpone() -> None:
    """Postpone importing these libraries, for the start of a program.

    `import scipy.sparse` then gives a module that is imported when an attribute of it
    is read. One that is imported already, or not installed, is left as it is.
    """
    for library, inner in _LIBRARIES.items():
        if library in sys.modules or not importlib.util.find_spec(library):
            continue
        for name in (library, *(f"{library}.{each}" for each in inner)):
            module = sys.modules[name] = _Postponed(name)
            parent, _, last = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], last, module)


class _Postponed(types.ModuleType):
    """A module that is imported when something of it is asked for."""

    def __init__(self, name: str):
        super().__init__(name)
        # `import` reads these two.
        self.__spec__ = ModuleSpec(name, None)
        self.__path__ = _Path(name)

    def __getattr__(self, name: str) -> object:
        # Called for what is not here. `inspect` asks all modules for their files.
        if name == "__file__":
            raise AttributeError(name)
        return getattr(_imported(self.__name__), name)


class _Path(list[str]):
    """Where to look for what is inside a postponed package, once anybody looks."""

    def __init__(self, package: str):
        self.package = package

    def __iter__(self):
        return iter(_imported(self.package).__path__)


def _imported(name: str) -> types.ModuleType:
    library = name.partition(".")[0]
    for each in (library, *(f"{library}.{inner}" for inner in _LIBRARIES[library])):
        if isinstance(sys.modules.get(each), _Postponed):
            del sys.modules[each]
    return importlib.import_module(name)
