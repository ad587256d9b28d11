"""Compose the jobs of a sweep with a cache: what several jobs have in common is composed once. `composition` is the way in.

Hydra's own functions do all the work, in Hydra's order, so that configs and errors are Hydra's by construction. Cached are
parsed overrides, files, the defaults list of each set of group choices, and, pickled, what the configs on such a list, or on
the first part of it, merge to. What belongs to one job alone (values, additions, deletions, ``hydra.overrides``) is not.

The cache depends on private functions of Hydra. So a large sweep first compares a sample of its jobs with what Hydra composes,
and does without the cache where they differ.
"""

import copy
import logging
import pickle
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import takewhile
from types import FunctionType, ModuleType
from typing import Any

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import InputDefault, ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, ListConfig
from omegaconf.base import Node

log = logging.getLogger(__name__)
LARGE = 50  # jobs for each of which one is compared: a job that Hydra composes by itself takes 70 ms
SAMPLE = 3  # jobs that are compared at most


@dataclass(frozen=True)
class Composition:
    """How the jobs of one sweep are composed.

    Attributes:
        loader: Hydra's own.
        cache: the same with a cache; None where its results cannot be trusted.
        master: the config of the sweep itself.
    """

    loader: ConfigLoader
    cache: "CachingLoader | None"
    master: DictConfig

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Return a job's config; what the cache cannot compose is Hydra's, to compose or to refuse."""
        if self.cache is not None:
            with suppress(Exception):
                return self.cache.load_sweep_config(self.master, list(overrides))
        return self.loader.load_sweep_config(self.master, list(overrides))

    def choices(self, overrides: Sequence[str]) -> tuple[str, ...]:
        """Return the overrides that decide what a job shares with others."""
        return self.cache.choices(self.master, overrides) if self.cache is not None else ()


def composition(loader: ConfigLoader, master: DictConfig, jobs: Sequence[Sequence[str]]) -> Composition:
    """Return how to compose the jobs of a sweep: with a cache, unless that differs from Hydra on a sample of a large sweep.

    Args:
        loader: the one that composed `master`.
        master: the config of the sweep itself.
        jobs: each one's overrides.
    """
    found = Composition(loader, CachingLoader(loader.get_search_path()), master)
    count = min(SAMPLE, len(jobs) // LARGE)
    sample = jobs[:: -(-len(jobs) // count)] if count else []
    for overrides in sample:
        if not _composes_alike(found, overrides):
            log.warning(
                "the cache of compositions differs from Hydra for %s: the sweep is composed without it", list(overrides)
            )
            return replace(found, cache=None)
    return found


def _composes_alike(composition: Composition, overrides: Sequence[str]) -> bool:
    """Return whether the cache composes a job as Hydra does; true for a job that Hydra refuses, which shows nothing."""
    try:
        expected = composition.loader.load_sweep_config(composition.master, list(overrides))
    except Exception:
        return True
    return same_config(composition.compose(overrides), expected)


def same_config(one: Node, other: Node) -> bool:
    """Return whether two configs are equal in types, values before resolution, schemas, flags and the order of keys."""
    if type(one) is not type(other) or _metadata(one) != _metadata(other):
        return False
    if not isinstance(one, DictConfig | ListConfig) or not isinstance(other, DictConfig | ListConfig):
        return repr(one._value()) == repr(other._value()) and type(one._value()) is type(other._value())
    ours, theirs = _children(one), _children(other)
    if ours is None or theirs is None:
        return repr(one.__dict__["_content"]) == repr(other.__dict__["_content"])
    return [key for key, _ in ours] == [key for key, _ in theirs] and all(
        same_config(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True)
    )


def _metadata(node: Node) -> dict[str, Any]:
    return {field.name: getattr(node._metadata, field.name) for field in fields(node._metadata)}


def _children(node: DictConfig | ListConfig) -> list[tuple[Any, Node]] | None:
    """Return a container's nodes with their keys; None where it is null, missing or an interpolation."""
    content = node.__dict__["_content"]
    if isinstance(content, dict):
        return list(content.items())
    return list(enumerate(content)) if isinstance(content, list) else None


class Repository(CachingConfigRepository):
    """The config files of one search path, and what was computed from them."""

    def __init__(self, delegate: IConfigRepository):
        super().__init__(delegate)
        self._group_exists = cache(super().group_exists)
        self.lists: dict[tuple, DefaultsList] = {}
        self.templates: dict[tuple, bytes] = {}
        self.last: tuple = ()

    def group_exists(self, config_path: str) -> bool:
        return self._group_exists(config_path)


class Copies(CachingConfigRepository):
    """Copies of a repository's configs: merging changes them."""

    def __init__(self, original: Repository):
        self.delegate, self.original = original.delegate, original

    def load_config(self, config_path: str) -> ConfigResult | None:
        found = self.original.load_config(config_path)
        return found and replace(found, config=copy.deepcopy(found.config))


@dataclass
class Merged(ResultDefault):
    """An element of a defaults list that stands for the first elements, already merged."""

    template: bytes = b""


def _interpolation_map(overrides: Overrides, defaults: list[InputDefault], self_added: bool) -> DictConfig | None:
    """Do as Hydra's function where a default is an interpolation; it makes a config that nothing else reads."""
    texts = (str(getattr(default, name, "")) for default in defaults for name in ("group", "path", "value"))
    return defaults_list._create_interpolation_map(overrides, defaults, self_added) if any("${" in t for t in texts) else None


def _function_of(module: ModuleType, function: str, **names: Any) -> Any:
    """Return a copy of a function and of its module's others, for which some names of the module stand for something else."""
    scope = dict(vars(module))
    own = {name: one for name, one in scope.items() if isinstance(one, FunctionType) and one.__globals__ is vars(module)}
    scope |= {name: _copy(one, scope) for name, one in own.items()} | names
    return scope[function]


def _copy(function: FunctionType, scope: dict[str, Any]) -> FunctionType:
    """Return a copy of a function with other global names."""
    made = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


create_defaults_list = _function_of(defaults_list, "create_defaults_list", _create_interpolation_map=_interpolation_map)


def _choices(repo: Repository, overrides: list[Override]) -> tuple[tuple[str, ...], list[Override]]:
    """Return the overrides that choose from groups, as texts, and the overrides that do not."""
    values = Overrides(repo=repo, overrides_list=overrides).config_overrides
    others = set(map(id, values))
    return tuple(str(override.input_line) for override in overrides if id(override) not in others), values


def _cached_defaults_list(
    repo: Repository, config_name: str | None, overrides_list: list[Override], **how: bool
) -> DefaultsList:
    """Return what `create_defaults_list` does, which depends on choices from groups only."""
    choices, values = _choices(repo, overrides_list)
    key = (config_name, *how.items(), *choices)
    if key not in repo.lists:
        repo.lists[key] = create_defaults_list(repo=repo, config_name=config_name, overrides_list=overrides_list, **how)
    return replace(repo.lists[key], config_overrides=values)


class CachingLoader(ConfigLoaderImpl):
    """Composes the jobs of one sweep. Files are read once: make another one for another sweep."""

    _load_configuration_impl = _copy(
        ConfigLoaderImpl._load_configuration_impl,  # type: ignore[arg-type]  # a function, as long as it is looked up in the class
        {**ConfigLoaderImpl._load_configuration_impl.__globals__, "create_defaults_list": _cached_defaults_list},
    )

    def __init__(self, search_path: ConfigSearchPath):
        super().__init__(search_path)
        parser = OverridesParser.create()
        self._parsed: Callable[[str], Override] = cache(lambda text: parser.parse_overrides([text])[0])
        self._repositories: dict[tuple, Repository] = {}

    def choices(self, master: DictConfig, overrides: Sequence[str]) -> tuple[str, ...]:
        """Return the overrides that decide which template a job is made from; none if it cannot be composed."""
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

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        if not isinstance(repo, Repository):
            return super()._compose_config_from_defaults_list(defaults, repo)
        key = tuple((default.config_path, default.package, default.primary) for default in defaults)
        if key not in repo.templates:
            common = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(key, repo.last, strict=False))))
            repo.last = key
            config = self._merge(self._with_template(key, defaults, common, repo), repo)
            repo.templates[key] = pickle.dumps(config, pickle.HIGHEST_PROTOCOL)
        return pickle.loads(repo.templates[key])

    def _with_template(self, key: tuple, defaults: list[ResultDefault], common: int, repo: Repository) -> list[ResultDefault]:
        """Return the defaults list with one element, already merged, in the place of the first `common`."""
        if not common:
            return defaults
        if key[:common] not in repo.templates:
            repo.templates[key[:common]] = pickle.dumps(self._merge(defaults[:common], repo), pickle.HIGHEST_PROTOCOL)
        return [Merged(template=repo.templates[key[:common]]), *defaults[common:]]

    def _merge(self, defaults: list[ResultDefault], repo: Repository) -> DictConfig:
        return super()._compose_config_from_defaults_list(defaults, Copies(repo))

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        if isinstance(default, Merged):
            return ConfigResult(provider="template", path="", config=pickle.loads(default.template), header={})
        return super()._load_single_config(default, repo)
