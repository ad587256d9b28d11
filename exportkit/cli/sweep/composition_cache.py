"""Hydra's config loader with a memory: what several jobs of a sweep have in common is composed once.

Hydra's own functions do all the work, in Hydra's order, so that configs and errors are Hydra's by construction. Remembered are
parsed overrides, files, the defaults list of each set of group choices, and, pickled, what the configs on such a list, or on
the first part of it, merge to. What belongs to one job alone (values, additions, deletions, ``hydra.overrides``) is not.
"""

import copy
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from types import FunctionType
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides, create_defaults_list
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig


class Repository(CachingConfigRepository):
    """The configs of one search path, and what was made of them."""

    def __init__(self, delegate: IConfigRepository):
        super().__init__(delegate)
        self.group_exists = cache(self.group_exists)
        self.lists: dict[tuple, DefaultsList] = {}
        self.templates: dict[tuple, bytes] = {}
        self.last: tuple = ()


class Copies(CachingConfigRepository):
    """The same configs to merge, which changes them."""

    def __init__(self, original: Repository):
        self.delegate, self.original = original.delegate, original

    def load_config(self, config_path: str) -> ConfigResult | None:
        found = self.original.load_config(config_path)
        return found and replace(found, config=copy.deepcopy(found.config))


@dataclass
class Merged(ResultDefault):
    """Stands on a defaults list for the first ones, merged."""

    template: bytes = b""


class TemplateLoader(ConfigLoaderImpl):
    """Composes the jobs of one sweep. Files are read once: make another one for another sweep."""

    def __init__(self, search_path: ConfigSearchPath):
        super().__init__(search_path)
        parser = OverridesParser.create()
        self._parsed: Callable[[str], Override] = cache(lambda text: parser.parse_overrides([text])[0])
        self._repositories: dict[tuple, Repository] = {}

    def choices(self, master: DictConfig, overrides: Sequence[str]) -> tuple[str, ...]:
        """What decides which template a job is made from; of one that cannot be composed, nothing."""
        try:
            parsed, repository = self._parse_overrides_and_create_caching_repo(master.hydra.job.config_name, overrides)
            return _choices(repository, parsed)[0]
        except Exception:
            return ()

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: Sequence[str], parsed_overrides: list[Override] | None = None
    ) -> tuple[list[Override], Repository]:
        parsed = parsed_overrides or [self._parsed(text) for text in overrides]  # Hydra 1.4 may have parsed them
        paths = [override for override in parsed if "searchpath" in override.key_or_group]
        key = (config_name, *(override.input_line for override in paths))
        if key not in self._repositories:
            repository = Repository(self.repository)
            self._process_config_searchpath(config_name, paths, repository)
            self._repositories[key] = repository
        return parsed, self._repositories[key]

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: Repository) -> DictConfig:
        key = tuple((default.config_path, default.package, default.primary) for default in defaults)
        if key not in repo.templates:
            common = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(key, repo.last, strict=False))))
            repo.last = key
            config = self._composed(self._begun(key, defaults, common, repo), repo)
            repo.templates[key] = pickle.dumps(config, pickle.HIGHEST_PROTOCOL)
        return pickle.loads(repo.templates[key])

    def _begun(self, key: tuple, defaults: list[ResultDefault], common: int, repo: Repository) -> list[ResultDefault]:
        """The same defaults list, of which the first `common` are merged already."""
        if not common:
            return defaults
        if key[:common] not in repo.templates:
            repo.templates[key[:common]] = pickle.dumps(self._composed(defaults[:common], repo), pickle.HIGHEST_PROTOCOL)
        return [Merged(template=repo.templates[key[:common]]), *defaults[common:]]

    def _composed(self, defaults: list[ResultDefault], repo: Repository) -> DictConfig:
        return super()._compose_config_from_defaults_list(defaults, Copies(repo))

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        if isinstance(default, Merged):
            return ConfigResult(provider="template", path="", config=pickle.loads(default.template), header={})
        return super()._load_single_config(default, repo)


def _choices(repo: Repository, overrides: list[Override]) -> tuple[tuple[str, ...], list[Override]]:
    """The overrides that choose from groups, and those that do not."""
    values = Overrides(repo=repo, overrides_list=overrides).config_overrides
    others = set(map(id, values))
    return tuple(str(override.input_line) for override in overrides if id(override) not in others), values


def _remembered_list(repo: Repository, config_name: str | None, overrides_list: list[Override], **how: bool) -> DefaultsList:
    """What `create_defaults_list` returns, which depends on choices only."""
    choices, values = _choices(repo, overrides_list)
    key = (config_name, *how.items(), *choices)
    if key not in repo.lists:
        repo.lists[key] = create_defaults_list(repo=repo, config_name=config_name, overrides_list=overrides_list, **how)
    return replace(repo.lists[key], config_overrides=values)


def _seeing(function: Any, **names: Any) -> FunctionType:
    """The same function, for which some names of its module stand for something else."""
    scope = {**function.__globals__, **names}
    made = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


TemplateLoader._load_configuration_impl = _seeing(
    ConfigLoaderImpl._load_configuration_impl, create_defaults_list=_remembered_list
)
