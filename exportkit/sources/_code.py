"""What the sources that run the user's code have in common: previews, calls with clear errors, values from either side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exportkit.capture import compare, export_meta_graph
from exportkit.checkpoint import Bundle, resolve
from exportkit.config import references
from exportkit.errors import ConfigError, ExportKitError, Problem
from exportkit.plugin import Preview, SourceModel, capture
from exportkit.processes.tensorflow import quiet

if TYPE_CHECKING:
    import tensorflow as tf


def preview(checkpoint: Path | None, problems: Sequence[Problem], checked: Sequence[str]) -> Preview:
    """The preview of a source that builds its graph: its code and its checkpoint, as far as they can be told unbuilt."""
    found, wrong = prefix(checkpoint) if checkpoint else (None, [])
    when_built = ["the graph's tensors and variables"]
    return Preview(checkpoint=found, problems=[*problems, *wrong], checked=checked, when_built=when_built)


def prefix(checkpoint: Path) -> tuple[str | None, list[Problem]]:
    """The prefix of a checkpoint that can be read, or what is wrong with it."""
    try:
        found = resolve(checkpoint)
        Bundle(found)
    except ExportKitError as error:
        return None, [Problem("checkpoint", f"{p.where}: {p.what}", p.do) for p in error.problems]
    return found, []


def call(function: Callable, where: str, *args: Any, **kwargs: Any) -> Any:
    """Call the user's function.

    Raises:
        ConfigError: it cannot be called, or raises.
    """
    if not callable(function):
        raise ConfigError(Problem(where, f"is a {type(function).__name__} and cannot be called", "name a function or class"))
    try:
        return function(*args, **kwargs)
    except ExportKitError:
        raise
    except (Exception, SystemExit) as cause:
        raise ConfigError(Problem(where, f"raised {references.told(cause)}")) from cause


def model(
    graph: "tf.Graph",
    restore_fn: Callable | None,
    checkpoint: Path | None,
    scratch: Path,
    wanted: Sequence[str],
    tensors: Mapping[str, str],
    where: str,
) -> SourceModel:
    """The built graph with its values: from what `restore_fn` leaves in a session, or else from the checkpoint."""
    if not graph.get_operations():
        do = "build in the graph that is the default when it is called, not in a tf.Graph of its own"
        raise ConfigError(Problem(f"source ({where})", "left an empty graph", do))
    if restore_fn is None:
        if checkpoint is None:
            raise ConfigError(Problem("source.checkpoint", f"is not set, and {where} returned no restore function", "set it"))
        return SourceModel(export_meta_graph(graph), resolve(checkpoint), tensors)
    captured = _captured(graph, restore_fn, scratch, wanted, tensors, where)
    if checkpoint is None:
        return replace(captured, notes=["values as restore_fn left them"])
    return replace(captured, notes=[compare(captured.checkpoint, resolve(checkpoint))])


def _captured(
    graph: "tf.Graph", restore_fn: Callable, scratch: Path, wanted: Sequence[str], tensors: Mapping[str, str], where: str
) -> SourceModel:
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0}, allow_soft_placement=True)
    with quiet():
        session = tf.compat.v1.Session(graph=graph, config=config)
    with session:
        call(restore_fn, f"{where}: restore function", session)
        return capture(graph, session, scratch, tensors=tensors, wanted=wanted)


def tensor_names(offered: Mapping[str, Any] | None) -> dict[str, str]:
    """Names that the user's code offers → tensor names; values may be tensors or names.

    Raises:
        ConfigError: a value is neither.
    """
    names = {str(name): getattr(tensor, "name", tensor) for name, tensor in (offered or {}).items()}
    wrong = {name: type(offered[name]).__name__ for name in offered or {} if not isinstance(names[str(name)], str)}
    if wrong:
        do = "return tensors or their names"
        raise ConfigError(*(Problem("source.builder", f"returned a {kind} as '{name}'", do) for name, kind in wrong.items()))
    return names
