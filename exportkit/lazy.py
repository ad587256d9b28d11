"""Names of a package that are imported when they are first used (PEP 562), so that a command imports what it needs."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(module: str, names: Mapping[str, str], package: str = "") -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module.

    Args:
        module: its name.
        names: module → the names that come from it, separated by spaces; ``NAME=THERE`` for one that is called THERE in it.
        package: where these modules are; default: `module`, which is a package then.
    """
    found = homes(names)

    def find(name: str) -> Any:
        if name not in found:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, original = found[name]
        return getattr(import_module(f"{package or module}.{home}"), original)

    return find


def homes(names: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return name → its module, and its name there."""
    return {
        name.partition("=")[0]: (home, name.rpartition("=")[2]) for home, listed in names.items() for name in listed.split()
    }
