"""What there is to choose from: the plugins, the user's directory of configs, and the options of the groups in it.

``--help`` shows them, so they are found without Hydra, whose import takes longer than all else here. Where another Hydra plugin
may add to Hydra's search path, Hydra is asked.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from exportkit import files, registry
from exportkit.cli import arguments as cli_arguments
from exportkit.errors import ConfigError, Problem
from exportkit.printable import printable

CONF = "exportkit.conf"
SCHEMA = "exportkit_schema"
GROUPS = ("model", "signature", "experiment")


@cache
def plugins() -> registry.Plugins:
    """Return all plugins, loaded once in a process; a worker loads its own."""
    return registry.load_plugins()


def show_help(text: Callable[[registry.Plugins, Mapping[str, Sequence[str]]], str], arguments: Sequence[str] = ()) -> None:
    """Print a help text that is made from the plugins and the options of the config groups.

    Nothing is composed, so that a broken config does not stand in the way of help.
    """
    flags, _ = cli_arguments.arrange(arguments)
    found, user = plugins(), user_conf(flags)
    print(printable(text(found, {group: options(group, user) for group in GROUPS}), "\n\t"))


def user_conf(flags: Sequence[str]) -> Path | None:
    """Return the user's directory of configs, absolute, or None where there is none."""
    named = cli_arguments.value_of(flags, "--config-dir", "-cd")
    directory = Path(named or "conf").absolute()
    if not directory.is_dir():
        if named:
            raise ConfigError(Problem("--config-dir", f"there is no directory {named}"))
        return None
    _check_root(directory / "config.yaml")
    return directory


def _check_root(file: Path) -> None:
    """Refuse a ``config.yaml`` that would replace exportkit's root config but is another application's."""
    if file.is_file() and SCHEMA.encode() not in files.read(file, files.TEXT):
        what = f"is another application's: its defaults do not list {SCHEMA}"
        do = "keep exportkit's files in a directory of their own and name it with --config-dir"
        raise ConfigError(Problem(os.path.relpath(file), what, do))


def options(group: str, user: Path | None) -> list[str]:
    """Return the options of a config group, sorted, as Hydra's ``get_group_options`` does.

    Args:
        group: its name.
        user: the user's directory of configs.
    """
    if "hydra" in sys.modules or extends_search_path():
        from exportkit.cli import hydra_app

        return hydra_app.group_options(group, user)
    return listed_options(group, user)


def listed_options(group: str, user: Path | None) -> list[str]:
    """Return the options of a config group in the user's directory, exportkit's own package and those of plugins, sorted."""
    packages = (importlib.util.find_spec(name) for name in (CONF, *plugins().conf_packages))
    found = [str(user)] if user else []
    places = [*found, *(place for spec in packages if spec for place in spec.submodule_search_locations or ())]
    return sorted({name for place in places for name in _listed(os.path.join(place, group))})


def _listed(directory: str) -> Iterator[str]:
    """Yield the names of the configs in a directory (``ConfigSource._list_add_result`` of Hydra)."""
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        file = os.path.join(directory, name if name.endswith(".yaml") else f"{name}.yaml")
        if name not in ("__pycache__", "__init__.py") and os.path.lexists(file) and not os.path.isdir(file):
            yield name.rpartition(".")[0] or name


def extends_search_path() -> bool:
    """Return whether a module in Hydra's namespace for plugins, beside exportkit's, names the class SearchPathPlugin."""
    spec = importlib.util.find_spec("hydra_plugins")
    for place in spec.submodule_search_locations or () if spec else ():
        for path in Path(place).glob("*"):
            modules = path.rglob("*.py") if path.is_dir() else [path]
            if path.name != "exportkit" and any(b"SearchPathPlugin" in files.read(one, files.TEXT) for one in modules):
                return True
    return False
