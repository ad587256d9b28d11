"""A function of TensorFlow 2 (of a tf.Module, a Keras model) → `SourceModel`: a graph with variables, and a checkpoint."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exportkit.capture.session import export_meta_graph
from exportkit.checkpoint import BundleWriter
from exportkit.contract import ReferenceAnswer, SourceModel
from exportkit.errors import BindingError, Problem, some

if TYPE_CHECKING:
    import tensorflow as tf
    from numpy.typing import ArrayLike

_TABLES = (
    "a lookup table cannot be captured: look words up in the config (a lookup binding), or build the graph with graph_builder"
)


def capture_function(
    function: "tf.types.experimental.ConcreteFunction",
    scratch: Path,
    *,
    examples: Sequence[Mapping[str, "ArrayLike"]] = (),
) -> SourceModel:
    """Turn a concrete function and the variables that it captures into a `SourceModel`.

    The function's graph is imported into a fresh one, with a resource variable in place of each captured variable and a
    constant in place of each captured value. The variables' present values are written to a checkpoint below `scratch`. The
    model offers the function's inputs by their names, and its outputs by the keys of the dict that it returns, or else as
    ``output_0``, ``output_1``, … in the order of ``tf.nest.flatten``.

    Args:
        function: ``tf.function(f).get_concrete_function(…)``; eager execution is on.
        scratch: the directory that `ModelSource.build` was given.
        examples: input name → value; the function is called with each, and its answers become the model's `answers`.

    Raises:
        BindingError: it captures a lookup table or another resource that is no variable, an input and an output have one name,
            or an example does not give the function's inputs.
    """
    import tensorflow as tf

    inputs, outputs = _inputs(function), _outputs(function)
    _refuse_clashes(function, inputs, outputs)
    answers = [_answer(function, number, example, inputs, outputs) for number, example in enumerate(examples)]
    definition = function.graph.as_graph_def()
    variables = _named_variables(function, {node.name for node in definition.node})
    captured = list(_captures(function, variables))
    values = {name: np.asarray(variable.numpy()) for name, variable in sorted(variables.items())}
    with tf.Graph().as_default() as graph:
        made = {name: _new_variable(name, variables[name], value.shape) for name, value in values.items()}
        stand_ins = dict(_stand_ins(captured, made))
        tf.graph_util.import_graph_def(definition, stand_ins, name="")
        meta_graph = export_meta_graph(graph)
    prefix = str(scratch / "captured")
    with BundleWriter(prefix) as writer:
        for name, value in values.items():
            writer.add(name, value)
    offered = {name: tensor.name for name, tensor in {**inputs, **outputs}.items()}
    return SourceModel(meta_graph, prefix, offered, answers=answers)


def _inputs(function: Any) -> dict[str, Any]:
    """Return the function's own inputs by the names of their placeholders, without what it captures."""
    number = len(function.inputs) - len(function.captured_inputs)
    return {tensor.op.name: tensor for tensor in function.inputs[:number]}


def _outputs(function: Any) -> dict[str, Any]:
    structured = function.structured_outputs
    if isinstance(structured, Mapping) and len(structured) == len(function.outputs):
        return {str(key): tensor for key, tensor in zip(sorted(structured), function.outputs, strict=True)}
    return {f"output_{number}": tensor for number, tensor in enumerate(function.outputs)}


def _refuse_clashes(function: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    if both := sorted(inputs.keys() & outputs.keys()):
        what, do = f"has '{both[0]}' as an input and as an output", "return it by another key"
        raise BindingError(Problem(_place(function), what, do))


def _named_variables(function: Any, taken: set[str]) -> dict[str, Any]:
    """Return the captured variables by names of their own: Keras calls many of them ``kernel``."""
    found: dict[str, Any] = {}
    handles = {id(handle) for handle, _ in function.graph.captures}
    for variable in (v for v in function.graph.variables if id(v.handle) in handles):
        base = name = variable.name.split(":")[0]
        number = 0
        while name in found or name in taken or any(other.startswith(f"{name}/") for other in (*found, *taken)):
            number += 1
            name = f"{base}_{number}"
        found[name] = variable
    return found


def _captures(function: Any, variables: Mapping[str, Any]) -> Iterator[tuple[str, str | np.ndarray]]:
    """Yield each captured placeholder with the name of the variable, or the value, that stands in for it.

    Raises:
        BindingError: it is neither; all such are reported.
    """
    names = {id(variable.handle): name for name, variable in variables.items()}
    problems = []
    for outer, inner in function.graph.captures:
        if id(outer) in names:
            yield inner.name, names[id(outer)]
        elif inner.dtype.name in ("resource", "variant"):
            users = sorted(f"{user.name} ({user.type})" for user in inner.consumers())
            what = f"captures a {inner.dtype.name} that is no variable, read by {some(users, 3) or 'nothing'}"
            problems.append(Problem(_place(function), what, _TABLES))
        else:
            yield inner.name, outer.numpy()
    if problems:
        raise BindingError(*dict.fromkeys(problems))


def _stand_ins(captured: Sequence[tuple[str, Any]], variables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each captured placeholder with the tensor of the new graph that replaces it."""
    import tensorflow as tf

    for placeholder, found in captured:
        yield placeholder, variables[found].handle if isinstance(found, str) else tf.constant(found)


def _new_variable(name: str, variable: Any, shape: tuple[int, ...]) -> Any:
    """Make a resource variable in the default graph; its value comes from the checkpoint."""
    import tensorflow as tf

    zeros = lambda: tf.zeros(shape, variable.dtype)  # noqa: E731
    v1 = tf.compat.v1
    return v1.Variable(zeros, trainable=variable.trainable, name=name, dtype=variable.dtype, use_resource=True)


def _answer(
    function: Any, number: int, example: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Mapping[str, Any]
) -> ReferenceAnswer:
    """Return what the function itself answers to an example."""
    import tensorflow as tf

    if example.keys() != inputs.keys():
        what = f"gives {some(sorted(example)) or 'nothing'}, and the function takes {some(sorted(inputs)) or 'nothing'}"
        raise BindingError(Problem(f"examples[{number}]", what, "give a value for each input"))
    values = [tf.convert_to_tensor(example[name], tensor.dtype) for name, tensor in inputs.items()]
    flat = tf.nest.flatten(function(*values))
    answered = {name: np.asarray(value.numpy()) for name, value in zip(outputs, flat, strict=True)}
    return ReferenceAnswer({name: value.numpy() for name, value in zip(inputs, values, strict=True)}, answered)


def _place(function: Any) -> str:
    return f"function '{function.name}'"
