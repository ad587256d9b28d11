"""Config files, found and read as Hydra and OmegaConf do: those that begin with ``# @package _global_``."""

import importlib.util
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from exportkit import files
from exportkit.cli import choices
from exportkit.cli.direct import NeedsHydra
from exportkit.cli.yaml_bounds import APART, unsafe

_HEADER = re.compile(r"# @package _global_[ ]*\n")
_FLOAT = re.compile(
    r"""^(?:
     [-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+)
    |\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*(?::[0-5]?[0-9])+\.[0-9_]*
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.X,
)
"""Numbers in OmegaConf's YAML (``omegaconf._utils.get_yaml_loader``): YAML 1.1 does not know ``1e-3``."""


class Places:
    """The directories in which configs are looked for.

    Attributes:
        directories: in the order of Hydra's search path.
    """

    def __init__(self, user: Path | None, packages: Sequence[str]):
        """Find them, from the user's directory of configs and the config packages of plugins."""
        specs = (importlib.util.find_spec(name) for name in (choices.CONF, *packages))
        own, *others = [list(spec.submodule_search_locations or ()) if spec else [] for spec in specs]
        self._own = Path(own[0])
        self.directories = [*([str(user)] if user else []), *own, *(place for found in others for place in found)]

    def root_defaults(self) -> list[Any]:
        """Return the defaults list of exportkit's root config."""
        defaults, rest = parts(files.read(self.packaged("config.yaml"), files.TEXT).decode())
        if rest.keys() - {"hydra"}:
            raise NeedsHydra
        return defaults

    def packaged(self, name: str) -> Path:
        """Return the path of a file in exportkit's own package of configs."""
        return self._own / name

    def is_group(self, name: str) -> bool:
        """Return whether one of the directories has a directory `name`."""
        return any(os.path.isdir(os.path.join(place, name)) for place in self.directories)

    def find(self, name: str) -> Path | None:
        """Return the file of a config, ``model/digits``, or None."""
        names = (os.path.join(place, f"{name}.yaml") for place in self.directories)
        return next((Path(file) for file in names if os.path.lexists(file) and not os.path.isdir(file)), None)


def read(file: Path) -> tuple[list[Any], dict[Any, Any]]:
    """Return the defaults list of a config file, and the rest of its content.

    Raises:
        NeedsHydra: Hydra has to read the file, or to say what is wrong with it.
    """
    if unsafe(file):
        raise NeedsHydra
    try:
        text = files.read(file, files.TEXT).decode()
    except (OSError, UnicodeDecodeError):
        raise NeedsHydra from None
    if not _HEADER.match(text) or text.count("@package") > 1:
        raise NeedsHydra
    return parts(text)


def parts(text: str) -> tuple[list[Any], dict[Any, Any]]:
    """Return the defaults list in the text of a config, and the rest of it."""
    data = parsed(text)
    defaults = data.pop("defaults", []) if isinstance(data, dict) else None
    if not isinstance(defaults, list):
        raise NeedsHydra
    return defaults, data


def parsed(text: str) -> Any:
    """Return the content of a YAML document as OmegaConf reads it; raises NeedsHydra where libyaml may read it otherwise."""
    if any(character in text for character in APART) or not hasattr(yaml, "CSafeLoader"):
        raise NeedsHydra
    try:
        return yaml.load(text, _loader())
    except (yaml.YAMLError, ValueError):
        raise NeedsHydra from None


@cache
def _loader() -> Any:
    class Loader(yaml.CSafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            if len(keys) != len({str(key) for key in keys}):
                raise NeedsHydra
            return super().construct_mapping(node, deep=deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in Loader.yaml_implicit_resolvers.items()
    }
    return Loader
