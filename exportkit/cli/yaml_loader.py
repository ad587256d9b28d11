"""OmegaConf's YAML loader with the parser of libyaml, thirteen times as fast as PyYAML's own.

OmegaConf's rules stay: its loader does all but the parsing, so numbers, booleans and duplicate keys are as ever. A text that
libyaml refuses, or may read in another way, is parsed by PyYAML.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import yaml
from omegaconf import _utils

from exportkit.cli.yaml_bounds import APART

_python_loader = _utils.get_yaml_loader


@contextmanager
def fast_yaml() -> Iterator[None]:
    """Have `OmegaConf.load` parse by libyaml in this context, where PyYAML was built with it."""
    before = _utils.get_yaml_loader
    _utils.get_yaml_loader = _get_loader if hasattr(yaml, "CSafeLoader") else before
    try:
        yield
    finally:
        _utils.get_yaml_loader = before


def _get_loader() -> Any:
    return _Document


class _Document:
    """What `yaml.load` makes of a stream: the loader of one document."""

    def __init__(self, stream: Any):
        self._stream = stream

    def get_single_data(self) -> Any:
        text = self._stream if isinstance(self._stream, str) else self._stream.read()
        if isinstance(text, str) and not any(character in text for character in APART):
            try:
                return _load(text, _c_loader())
            except yaml.YAMLError:  # the message is PyYAML's
                pass
        if not isinstance(self._stream, str):
            self._stream.seek(0)
        return _load(self._stream, _python_loader())

    def dispose(self) -> None:
        """Do nothing: each loader is disposed of when it has read."""


def _load(stream: Any, loader: Any) -> Any:
    return yaml.load(stream, Loader=loader)


@cache
def _c_loader() -> Any:
    from yaml.cyaml import CParser  # type: ignore[attr-defined]  # its stub does not list what it imports

    class FastLoader(CParser, _python_loader()):  # type: ignore[misc]  # OmegaConf makes the class when it is asked for it
        def __init__(self, stream: Any):
            CParser.__init__(self, stream)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return FastLoader
