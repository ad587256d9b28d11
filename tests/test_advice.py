"""Every refusal of verify and warmup says what to do, and names the config key that changes it."""

import ast
import re
from pathlib import Path

import pytest

import exportkit

ROOT = Path(exportkit.__file__).parent
FILES = [
    "steps/verify.py",
    "steps/warmup.py",
    *(f"verifying/parity/{path.name}" for path in (ROOT / "verifying/parity").iterdir()),
]
KEY = re.compile(r"\b(post\.|samples|bindings|signatures|weights|source|meta_graphs|ensure_shape)")


def problems(path):
    """The calls of Problem in a file, each with the function that makes it."""
    tree = ast.parse(path.read_text())
    for outer in ast.walk(tree):
        if isinstance(outer, ast.FunctionDef):
            for node in ast.walk(outer):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "Problem":
                    yield tree, outer, node


def texts(expression, function, tree):
    """All texts that an expression may be made of: its own, and those of the names in it, in the function and the module."""
    found, todo, seen = [], [expression], set()
    while todo:
        for node in ast.walk(todo.pop()):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.Name) and node.id not in seen:
                seen.add(node.id)
                todo += [value for scope in (function, tree) for value in assigned(node.id, scope)]
    return " ".join(found)


def assigned(name, scope):
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id == name:
                    yield node.value
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=True)
                    yield from (value for one, value in pairs if isinstance(one, ast.Name) and one.id == name)


PROBLEMS = [
    pytest.param(*found, id=f"{name}:{found[2].lineno}")
    for name in FILES
    if name.endswith(".py")
    for found in problems(ROOT / name)
]


@pytest.mark.parametrize(("tree", "function", "call"), PROBLEMS)
def test_a_refusal_names_the_key_that_changes_it(tree, function, call):
    assert len(call.args) == 3, ast.unparse(call)
    assert KEY.search(texts(call.args[2], function, tree)), ast.unparse(call)


def test_there_are_refusals_to_look_at():
    assert len(PROBLEMS) >= 15
