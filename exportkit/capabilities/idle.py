"""A graph without the dangerous nodes that nothing asks for: TensorFlow may evaluate even those when it imports the graph."""

from collections.abc import Collection

from exportkit.capabilities.bodies import MAIN, Bodies, op_of
from exportkit.capabilities.oplist import of_op, on_import, refused
from exportkit.protos import GraphDef, NodeDef


def drop_idle_dangers(graph: GraphDef, fetches: Collection[str], feeds: Collection[str]) -> None:
    """Remove from `graph` each node that an import may evaluate, that can be dangerous and that `fetches` do not need.

    What takes a removed node goes too, for it is not needed either; and functions that nothing calls any more.

    Args:
        graph: is changed.
        fetches: tensors and operations that will be asked for.
        feeds: tensors (``op:0``) that will be fed.
    """
    bodies = Bodies(graph)
    needed = bodies.reach(fetches, (), feeds)
    dangerous = _dangerous_functions(bodies)
    gone = {
        node.name
        for node in bodies.main.all
        if id(node) not in needed
        and ((not bodies.is_call(node) and _is_evaluated(node)) or dangerous.intersection(bodies.called_by(node)))
    }
    takers: dict[str, list[NodeDef]] = {}
    for node in bodies.main.all:
        for edge in node.input:
            takers.setdefault(op_of(edge), []).append(node)
    todo = list(gone)
    while todo:
        for node in takers.get(todo.pop(), ()):
            if id(node) not in needed and node.name not in gone:
                gone.add(node.name)
                todo.append(node.name)
    left = [node for node in bodies.main.all if node.name not in gone or id(node) in needed]
    called = _called(bodies, left)
    kept = GraphDef(versions=graph.versions, node=left)
    kept.library.gradient.extend(g for g in graph.library.gradient if g.function_name in called)
    kept.library.function.extend(f for f in graph.library.function if f.signature.name in called)
    graph.CopyFrom(kept)


def _is_evaluated(node: NodeDef) -> bool:
    return on_import(node.op) and any(refused(capability, ()) for capability in of_op(node.op))


def _dangerous_functions(bodies: Bodies) -> set[str]:
    """Return the functions with such a node, and those that call one with it."""
    found: set[str] = set()
    todo = [
        name
        for name, body in bodies.by_name.items()
        if name != MAIN and any(_is_evaluated(node) for node in body.all if not bodies.is_call(node))
    ]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [body.name for body, _ in bodies.callers.get(name, ()) if body.name != MAIN]
    return found


def _called(bodies: Bodies, nodes: Collection[NodeDef]) -> set[str]:
    """Return the functions that nodes call, directly or not."""
    found: set[str] = set()
    todo = [name for node in nodes for name in bodies.called_by(node)]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [inner for node in bodies.by_name[name].all for inner in bodies.called_by(node)]
    return found
