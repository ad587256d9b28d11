"""The source `encoder`: a class whose method builds the graph from a model config."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exportkit.errors import ConfigError, ExportKitError, Problem, did_you_mean, type_of
from exportkit.plugin import ModelSource, Preview, SourceModel, hookimpl
from exportkit.sources import _code


class ModelConfig(dict):
    """A mapping whose keys are attributes too, as encoders in the wild read their configs either way."""

    def __init__(self, values: dict[str, Any]):
        super().__init__({key: _nested(value) for key, value in values.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            near = did_you_mean(name, map(str, self))
            raise AttributeError(f"the config has no '{name}'" + (f"; {near}" if near else "")) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def _nested(value: Any) -> Any:
    if isinstance(value, dict):
        return ModelConfig(value)
    return [_nested(item) for item in value] if isinstance(value, list) else value


@dataclass(kw_only=True)
class EncoderSource(ModelSource):
    """An encoder class with ``build_graph_from_config``, which may return a restore function.

    The method is called in a fresh graph as (config), (config, checkpoint_path) or (model_config, track_config,
    checkpoint_path): a parameter with ``checkpoint`` in its name is given the checkpoint's prefix, each other one the
    mapping of its name in `config`, or else all of `config`.
    """

    kind: str = "encoder"

    encoder: str
    """The class, as ``package.module:Class``."""

    args: dict[str, Any] = field(default_factory=dict)
    """Its constructor's keyword arguments."""

    method: str = "build_graph_from_config"
    """The method that builds the graph."""

    config: dict[str, Any] = field(default_factory=dict)
    """The model config; the method reads it by attribute or by item."""

    checkpoint: Path | None = None
    """Prefix of the checkpoint, or its directory: the latest in there."""

    v2_tensorshape: bool = True
    """false for code that reads ``shape[0].value``: dimensions are then objects, as in TensorFlow 1."""

    def preview(self) -> Preview:
        from exportkit.config import references

        try:
            found = references.examine(self.encoder, "encoder")
            problems = references.constructor(found).problems(self.args, "args")
            built = references.method(found, self.method, "method")
            needed = [name for name in built.required if "checkpoint" in name]
            if needed and self.checkpoint is None:
                problems.append(Problem("checkpoint", f"is not set, and {self.method} needs it", "set it"))
        except ExportKitError as error:
            return _code.preview(self.checkpoint, error.problems, [])
        return _code.preview(self.checkpoint, problems, [f"encoder {self.encoder}.{self.method}"])

    def build(self, preview: Preview, scratch: Path, wanted: Sequence[str]) -> SourceModel:
        import tensorflow as tf

        from exportkit.config import references

        cls = references.resolve(self.encoder, "encoder")
        graph = tf.Graph()
        with graph.as_default(), _code.tensor_shapes(self.v2_tensorshape):
            encoder = _code.call(cls, "encoder", **self.args)
            method = self._method(encoder)
            restore_fn = _code.call(method, f"method ({self.method})", *self._arguments(method, preview.checkpoint))
            if restore_fn is not None and not callable(restore_fn):
                what = f"{self.encoder}.{self.method} returned {type_of(restore_fn)}"
                raise ConfigError(Problem("method", what, "return a function of a session, or None"))
            return _code.model(graph, restore_fn, preview.checkpoint, scratch, wanted, {}, "method", self.method)

    def _method(self, encoder: Any) -> Callable:
        if not hasattr(encoder, self.method):
            near = did_you_mean(self.method, [n for n in dir(encoder) if not n.startswith("_")])
            raise ConfigError(Problem("method", f"{self.encoder} has no method '{self.method}'", near))
        return getattr(encoder, self.method)

    def _arguments(self, method: Callable, checkpoint: str | None) -> list[Any]:
        positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [p for p in inspect.signature(method).parameters.values() if p.kind in positional]
        config, given = ModelConfig(self.config), []
        for parameter in parameters:
            if "checkpoint" in parameter.name:
                given.append(self._prefix(checkpoint, parameter.default))
            elif isinstance(config.get(parameter.name), dict):
                given.append(config[parameter.name])
            else:
                given.append(config if parameter.default is parameter.empty else parameter.default)
        return given

    def _prefix(self, checkpoint: str | None, default: Any) -> Any:
        if checkpoint is not None:
            return checkpoint
        if default is not inspect.Parameter.empty:
            return default
        raise ConfigError(Problem("checkpoint", f"is not set, and {self.method} needs it", "set it"))


@hookimpl
def exportkit_model_sources():
    return [EncoderSource]
