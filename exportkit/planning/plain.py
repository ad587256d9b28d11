"""The composed config as plain data: interpolations resolved, defaults filled in, secrets kept out of what is written down."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from exportkit.errors import ConfigError, Problem, did_you_mean
from exportkit.spec import Config

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException


class PlainConfig(dict[str, Any]):
    """A composed config that is plain data already, without interpolations: OmegaConf is not imported for it."""


def plain_config(config: "Mapping[str, Any] | DictConfig") -> dict[str, Any]:
    """Return the config as plain data, interpolations resolved.

    Raises:
        ConfigError: an interpolation cannot be resolved, or there is a ``_target_``: configs do not import anything.
    """
    data = dict(config) if isinstance(config, PlainConfig) else _resolved(config)
    defaults = {**_defaults(), "export_dir": f"exports/{data.get('name')}"}
    targets = list(_targets(data, ""))
    if targets:
        raise ConfigError(*targets)
    return {**defaults, **data}


def _resolved(config: "Mapping[str, Any] | DictConfig") -> dict[str, Any]:
    """Return a config's root as a dict; empty for one that is null."""
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        tree = config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))
        data = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as cause:
        raise ConfigError(_unresolved(cause)) from None
    return {str(key): value for key, value in data.items()} if isinstance(data, dict) else {}


def _unresolved(cause: "OmegaConfBaseException") -> Problem:
    """Return what is wrong with a value that has no plain form."""
    from omegaconf.errors import UnsupportedValueType

    where, what = cause.full_key or "config", str(cause).splitlines()[0]
    if isinstance(cause, UnsupportedValueType):
        return Problem(where, what, "write plain values")
    missing = re.search(r"Interpolation key '([^']*)' not found", what)
    if missing and missing[1] in _defaults():
        return Problem(missing[1], f"is not in the config, and {where} needs it", f"set it, or leave out ~{missing[1]}")
    if missing:
        return Problem(where, f"${{{missing[1]}}} is not in the config", did_you_mean(missing[1], _defaults()) or "set it")
    return Problem(where, what, "correct the interpolation")


def _defaults() -> dict[str, Any]:
    return asdict(Config())


def without_secrets(config: "Mapping[str, Any] | DictConfig", data: dict[str, Any]) -> dict[str, Any]:
    """Return the config as it is written down: a value from the environment stays the interpolation that reads it."""
    if isinstance(config, PlainConfig):
        return data
    from omegaconf import DictConfig, OmegaConf

    written = OmegaConf.to_container(config, resolve=False) if isinstance(config, DictConfig) else dict(config)
    secrets = {value: words for words, value in _paired(written, data) if "${oc.env:" in words and value}

    def masked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: masked(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [masked(inner) for inner in value]
        for secret, words in secrets.items() if isinstance(value, str) else ():
            value = value.replace(secret, words)
        return value

    return masked(data) if secrets else data


def _paired(written: Any, resolved: Any) -> Iterator[tuple[str, str]]:
    """Yield the texts of a config before and after resolving, place by place."""
    if isinstance(written, dict) and isinstance(resolved, dict):
        for key in written.keys() & resolved:
            yield from _paired(written[key], resolved[key])
    elif isinstance(written, list) and isinstance(resolved, list):
        for one, other in zip(written, resolved, strict=False):
            yield from _paired(one, other)
    elif isinstance(written, str) and isinstance(resolved, str):
        yield written, resolved


def _targets(value: Any, where: str) -> Iterator[Problem]:
    if isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _targets(inner, f"{where}[{i}]")
    for key, inner in value.items() if isinstance(value, dict) else ():
        place = f"{where}.{key}".lstrip(".")
        if key == "_target_":
            do = "name code where a source asks for it: package.module:name"
            yield Problem(place, "configs do not import anything by _target_", do)
        yield from _targets(inner, place)
