"""What the sources that run the user's code have in common: previews, calls with clear errors, values of variables."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exportkit.errors import ConfigError, ExportKitError, Problem, did_you_mean, type_of
from exportkit.plugin import Preview, SourceModel

if TYPE_CHECKING:
    import tensorflow as tf


def preview(checkpoint: Path | None, problems: Sequence[Problem], checked: Sequence[str]) -> Preview:
    """Return the preview of a source that builds its graph: what is known of its code and its checkpoint."""
    found, wrong = prefix(checkpoint) if checkpoint else (None, [])
    when_built = ["the graph's tensors and variables"]
    return Preview(checkpoint=found, problems=[*problems, *wrong], checked=checked, when_built=when_built, by_code=True)


def prefix(checkpoint: Path) -> tuple[str | None, list[Problem]]:
    """Return the prefix of a checkpoint that can be read, or what is wrong with it."""
    from exportkit.checkpoint import open_checkpoint

    try:
        return open_checkpoint(checkpoint).prefix, []
    except ExportKitError as error:
        return None, [Problem("checkpoint", f"{p.where}: {p.what}", p.do) for p in error.problems]


def call(function: Callable, where: str, *args: Any, **kwargs: Any) -> Any:
    """Call the user's function, which the field `where` of the source names.

    Raises:
        ConfigError: it cannot be called, or raises.
    """
    if not callable(function):
        raise ConfigError(Problem(where, f"is {type_of(function)} and cannot be called", "name a function or class"))
    try:
        return function(*args, **kwargs)
    except ExportKitError:
        raise
    except (Exception, SystemExit) as cause:
        from exportkit.config import references

        raise ConfigError(Problem(where, f"raised {references.describe_error(cause)}", references.advice(cause))) from cause


@contextmanager
def tensor_shapes(v2: bool) -> Iterator[None]:
    """Have dimensions as integers, or as objects of TensorFlow 1 (``shape[0].value``), while the user's code runs."""
    import tensorflow as tf

    if v2:
        yield
        return
    tf.compat.v1.disable_v2_tensorshape()
    try:
        yield
    finally:
        tf.compat.v1.enable_v2_tensorshape()


def model(
    graph: "tf.Graph",
    restore_fn: Callable | None,
    checkpoint: str | None,
    scratch: Path,
    wanted: Sequence[str],
    tensors: Mapping[str, str],
    where: str,
    function: str,
) -> SourceModel:
    """Return the built graph with its values: those that `restore_fn` leaves in a session, or else those of the checkpoint.

    Args:
        checkpoint: the checkpoint's prefix.
        where: the field of the source that names the function which built the graph.
        function: how messages call that function.

    Raises:
        ConfigError: the graph is empty, there are no values, or `restore_fn` raised.
    """
    from exportkit.capture import compare, export_meta_graph

    if not graph.get_operations():
        do = "build in the graph that is the default when it is called, not in a tf.Graph of its own"
        raise ConfigError(Problem(where, "left an empty graph", do))
    if restore_fn is None:
        if checkpoint is None:
            raise ConfigError(Problem("checkpoint", f"is not set, and {function} returned no restore function", "set it"))
        return SourceModel(export_meta_graph(graph), checkpoint, tensors)
    captured = _captured(graph, restore_fn, scratch, wanted, tensors, where)
    if checkpoint is None:
        return replace(captured, notes=["values as restore_fn left them"])
    return replace(captured, notes=[compare(captured.checkpoint, checkpoint)])


def _captured(
    graph: "tf.Graph", restore_fn: Callable, scratch: Path, wanted: Sequence[str], tensors: Mapping[str, str], where: str
) -> SourceModel:
    import tensorflow as tf

    from exportkit.capture import capture
    from exportkit.processes.tensorflow import quiet

    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0}, allow_soft_placement=True)
    with quiet():
        session = tf.compat.v1.Session(graph=graph, config=config)
    with session:
        call(restore_fn, f"{where} (restore function)", session)
        return capture(graph, session, scratch, tensors=tensors, wanted=wanted)


def tensor_names(offered: Mapping[str, Any] | None, graph: "tf.Graph", function: str, where: str) -> dict[str, str]:
    """Return the names that `function` of the user's code offers → the names of tensors of `graph`.

    Args:
        offered: what the function returned; its values are tensors or their names.
        function: the reference that names it.
        where: the config key that has the reference.

    Raises:
        ConfigError: a value is neither, or no tensor of the graph.
    """
    names = {str(name): getattr(value, "name", value) for name, value in (offered or {}).items()}
    known = [tensor.name for op in graph.get_operations() for tensor in op.outputs]
    foreign = {name for name, value in (offered or {}).items() if getattr(value, "graph", graph) is not graph}
    problems = list(_no_tensors(offered or {}, names, known, foreign, where, f"{function} returned"))
    if problems:
        raise ConfigError(*problems)
    return names


def _no_tensors(
    offered: Mapping[str, Any], names: Mapping[str, Any], known: Sequence[str], foreign: set[str], where: str, returned: str
) -> Iterator[Problem]:
    present = set(known)
    for key, value in offered.items():
        name = names[str(key)]
        if not isinstance(name, str):
            yield Problem(where, f"{returned} {type_of(value)} as '{key}'", "return tensors or their names")
        elif key in foreign or not {name, f"{name}:0"} & present:
            near = did_you_mean(name, known) if isinstance(value, str) else ""
            do = near if near.startswith("did") else "return tensors of the graph that is the default when it is called"
            yield Problem(where, f"{returned} '{name}' as '{key}', which is no tensor of the graph", do)
