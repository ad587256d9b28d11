"""Hydra's readers of configs, with bounds: a file is checked before Hydra parses it."""

import os
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra._internal.core_plugins.structured_config_source import StructuredConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult

from exportkit.cli.yaml_bounds import unsafe
from exportkit.cli.yaml_loader import fast_yaml
from exportkit.errors import ConfigError


class CheckedFiles(FileConfigSource):
    """The files of a directory of configs."""

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path))
        if os.path.lexists(file) and (problem := unsafe(file)):
            raise ConfigError(problem)
        with fast_yaml():
            return super().load_config(config_path)

    def is_config(self, config_path: str) -> bool:
        """Return whether something that is no directory has the config's name; reading it tells whether it is a file."""
        file = os.path.join(self.path, self._normalize_file_name(config_path))
        return os.path.lexists(file) and not os.path.isdir(file)


class PackagedFiles(ImportlibResourcesConfigSource):
    """The config files of a package."""

    def load_config(self, config_path: str) -> ConfigResult:
        with fast_yaml():
            return super().load_config(config_path)


class SharedStore(StructuredConfigSource):
    """The config store of the process, which hands out copies of what it holds.

    Hydra copies all its sources for each composition; a copy of the store would take a sixth of that.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedStore":
        return self


for _ours, _hydras in (
    (CheckedFiles, FileConfigSource),
    (PackagedFiles, ImportlibResourcesConfigSource),
    (SharedStore, StructuredConfigSource),
):
    _ours.__name__ = _hydras.__name__  # Hydra registers its own again where it looks for plugins anew, and compares names


def install() -> None:
    """Let Hydra read configs by the classes above."""
    for source in (CheckedFiles, PackagedFiles, SharedStore):
        SourcesRegistry.instance().types[source.scheme()] = source
