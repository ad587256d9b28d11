"""A config from its overrides, composed in the order in which Hydra composes it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from exportkit.cli import arguments as cli_arguments
from exportkit.cli import choices
from exportkit.cli.direct import NeedsHydra, overrides, reading, tree
from exportkit.cli.refusals import no_key, no_option, of_steps
from exportkit.errors import ConfigError
from exportkit.planning.plain import PlainConfig
from exportkit.registry import Plugins
from exportkit.spec import Config

_PLUGINS = ("source", "post")  # the groups whose options are classes
_SHADOWS = ("config.yaml", f"{choices.SCHEMA}.yaml", "hydra")  # of the user's: what they replace is not read here


def compose(arguments: Sequence[str]) -> PlainConfig | None:
    """Return the config of one job as plain data, interpolations resolved; None where Hydra has to compose it.

    Args:
        arguments: flags and overrides, in any order; Hydra alone knows what flags do.

    Raises:
        ConfigError: an override names an option or a key that there is not; the text is the one for Hydra's error.
    """
    if any(word.startswith("-") for word in arguments):
        return None
    return composed(cli_arguments.arrange(arguments)[1], Composer)


def composed(words: Sequence[str], composer: "Callable[[], Composer]") -> PlainConfig | None:
    """Return the config of overrides, composed by what `composer` returns; None where Hydra has to. Raises ConfigError."""
    try:
        settings = [overrides.parsed(word) for word in words]
        return PlainConfig(composer().compose(settings))
    except (NeedsHydra, OSError, RecursionError):  # where Hydra meets them too, it reports them
        return None


class Composer:
    """Composes configs from the files of this moment: a file that several of them have is read once."""

    def __init__(self) -> None:
        """Find the files. Raises NeedsHydra: some decide what only Hydra composes."""
        self._user, self._plugins = choices.user_conf(()), choices.plugins()
        if choices.extends_search_path() or (self._user and any((self._user / name).exists() for name in _SHADOWS)):
            raise NeedsHydra
        self._places = reading.Places(self._user, self._plugins.conf_packages)
        if any(map(self._places.is_group, _PLUGINS)):  # a file may replace a class
            raise NeedsHydra
        defaults = (entry for entry in self._places.root_defaults() if isinstance(entry, dict))
        self._groups = {group: option for entry in defaults for group, option in entry.items()}
        self._read = cache(reading.read)
        for cls in (*self._plugins.sources.values(), *self._plugins.steps.values()):
            if not cls.__module__.startswith("exportkit."):
                tree.Struct(cls)  # one that OmegaConf may refuse is refused by Hydra, chosen or not

    def compose(self, settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        """Return the config of overrides, keys with values. Raises NeedsHydra, and ConfigError as `compose` does."""
        chosen = [(key, value) for key, value in settings if key in self._groups or self._places.is_group(key)]
        if len(chosen) != len(dict(chosen)) or not dict(chosen).keys() <= self._groups.keys():
            raise NeedsHydra
        choice, contents = self._chosen(dict(chosen))
        root = self._tree(choice)
        for group in self._groups:
            tree.merge(root, contents.get(group, {}))
        for key, value in settings:
            if key not in self._groups:
                _set(root, key, value, self._plugins)
        return tree.resolved(root)

    def _chosen(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[Any, Any]]]:
        """Return the options of the groups, and the contents of those that are files.

        As in Hydra the last group comes first, and the first choice counts: of the command line, of an experiment, of a model.

        Args:
            given: the choices of the command line.
        """
        known, contents = dict(given), {}
        waiting = [group for group in self._groups if not group.startswith("override ")]
        while waiting:
            group = waiting.pop()
            option = known.setdefault(group, self._groups[group])
            if group in _PLUGINS or (option is None and group not in given):
                continue
            if not isinstance(option, str) or any(mark in option for mark in "./$"):
                raise NeedsHydra
            if (file := self._places.find(f"{group}/{option}")) is None:
                raise _no_option(group, option, self._user) if group in given and self._places.is_group(group) else NeedsHydra
            defaults, contents[group] = self._read(file)
            for entry in defaults:
                for key, value in _overridden(entry, waiting):
                    known.setdefault(key, value)
        return known, contents

    def _tree(self, choice: Mapping[str, Any]) -> tree.Node:
        """Return the schema of a config with the chosen source and steps."""
        root = tree.Struct(Config)
        source, steps = choice["source"], choice["post"]
        if not isinstance(steps, list) or len(set(steps)) != len(steps) or not self._plugins.steps.keys() >= set(steps):
            raise NeedsHydra
        if source is not None:
            if not isinstance(source, str) or source not in self._plugins.sources:
                raise NeedsHydra
            root["source"] = tree.Struct(self._plugins.sources[source])
        for step in steps:
            root["post"][step] = tree.Struct(self._plugins.steps[step])
        return root


def _no_option(group: str, option: str, user: Path | None) -> ConfigError:
    return ConfigError(no_option(group, option, choices.listed_options(group, user), user))


def _overridden(entry: Any, waiting: Sequence[str]) -> Iterable[tuple[str, Any]]:
    """Yield what an entry of a file's defaults list chooses from the groups that are `waiting`."""
    if entry == "_self_":
        return
    if not isinstance(entry, dict) or len(entry) != 1:
        raise NeedsHydra
    ((words, option),) = entry.items()
    group = str(words).removeprefix("override /")
    options = option if isinstance(option, list) else [option]
    if str(words) == group or group not in waiting or not all(isinstance(one, str) and one.isidentifier() for one in options):
        raise NeedsHydra
    yield group, option


def _set(root: tree.Node, path: str, value: Any, plugins: Plugins) -> None:
    """Set the value at a path, which exists, unless that is a mapping or a list."""
    *parents, name = path.split(".")
    node = root
    for at, part in enumerate((*parents, name)):
        if part not in node:
            raise _no_key(".".join([*parents, name][: at + 1]), node, plugins)
        if at < len(parents):
            if not isinstance(inner := node[part], tree.Node):
                raise NeedsHydra
            node = inner
    if isinstance(value, list) or isinstance(node[name], tree.Node | list):
        raise NeedsHydra
    node[name] = tree.converted(node.hint(name), value)


def _no_key(where: str, node: tree.Node, plugins: Plugins) -> ConfigError:
    is_root = "." not in where
    known = {*node, "hydra", *choices.GROUPS} if is_root else set(node)
    problem = no_key(where, known, isinstance(node, tree.Struct), isinstance(node, tree.Table), list)
    if is_root and not problem.do:  # the nearest key may be one of Hydra's
        raise NeedsHydra
    return ConfigError(of_steps(problem, list(plugins.steps)))
