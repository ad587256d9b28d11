"""References to the user's code, ``package.module:name``: examined without importing anything, then resolved.

`examine` finds the module through the import system's finders, without importing it or its parents, and reads the
definition with `ast`; what that does not show (a name that is made at run time) is left to `resolve`.
"""

import ast
import importlib.machinery
import itertools
import os
import pkgutil
import re
import sys
import sysconfig
import traceback
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exportkit import files
from exportkit.errors import ConfigError, Problem, did_you_mean, nearest

_INSTALLED = {"site-packages", "dist-packages"}  # of this environment, or of one below it
_FOREIGN = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_ADVICE = (  # pattern in an error's text → what to do
    (
        r"tensorflow\.contrib|no attribute 'contrib'",
        "TensorFlow 2 has no tf.contrib: pip install tf_slim for contrib.layers, slim and framework; contrib.rnn is "
        "tf.compat.v1.nn.rnn_cell; contrib.training.HParams can be a class of your own",
    ),
    (
        r"module 'tensorflow' has no attribute '(placeholder|get_variable|variable_scope|Session|layers|log|app)'",
        "it is code of TensorFlow 1: write import tensorflow.compat.v1 as tf",
    ),
    (
        r"not available with Keras 3|has no attribute '(dense|BasicLSTMCell|LSTMCell|GRUCell|MultiRNNCell|layers)'",
        "pip install tf-keras: exportkit then sets TF_USE_LEGACY_KERAS=1, which tf.compat.v1.layers and rnn_cell need",
    ),
    (
        r"'(int|NoneType)' object has no attribute 'value'",
        "set source.v2_tensorshape=false: the code reads shape[i].value, as TensorFlow 1 has it",
    ),
)
_FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class Definition:
    """A function, class or method, as read with `ast`.

    Attributes:
        file: the file that holds it; the module's name where no file is known.
        parameters: its parameters' names in order, without self.
        required: those without a default.
        variadic: it takes ``**kwargs``.
        node: the definition itself; None where the name is defined in another way (an import, an assignment).
    """

    file: str
    parameters: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    variadic: bool = True
    node: ast.AST | None = None

    def problems(self, given: Collection[str], where: str) -> list[Problem]:
        """Return what is wrong with calling it with the keyword arguments `given`."""
        if self.variadic and not self.required:
            return []
        unknown = [] if self.variadic else [n for n in given if n not in self.parameters]
        meant = {near for n in unknown for near in nearest(n, self.parameters)}
        missing = [n for n in self.required if n not in given and n not in meant]
        return [
            *(Problem(f"{where}.{n}", "is not a parameter", self._near(n)) for n in unknown),
            *(Problem(f"{where}.{n}", "has no default and is not given", "set it") for n in missing),
        ]

    def _near(self, name: str) -> str:
        return did_you_mean(name, self.parameters) if self.parameters else "it takes none"


def examine(reference: str, where: str) -> Definition:
    """Return the definition of `reference` without importing it.

    Raises:
        ConfigError: it is not of the form ``package.module:name``, or there is no such module, or no such name in it.
    """
    if not _FORM.fullmatch(reference):
        package, _, last = reference.rpartition(".")
        meant = f"{package}:{last}" if _FORM.fullmatch(f"{package}:{last}") else "package.module:name"
        raise ConfigError(Problem(where, f"'{reference}' is not a reference", f"write {meant}"))
    module, name = reference.split(":")
    file = _find(module, where)
    if file is None or not file.endswith(".py"):
        return Definition(file or module)
    try:
        tree = ast.parse(files.read(file, files.TEXT), file)
    except OSError:
        return Definition(file)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as cause:
        line, what = getattr(cause, "lineno", None) or 1, getattr(cause, "msg", str(cause))
        raise ConfigError(Problem(where, f"{file}:{line}: {what}", "fix the module")) from None
    return _definition(tree, name, file, where)


def resolve(reference: str, where: str) -> Any:
    """Import `reference`.

    Raises:
        ConfigError: the import fails, or the module has no such name.
    """
    try:
        return pkgutil.resolve_name(reference)
    except (Exception, SystemExit) as cause:
        raise ConfigError(Problem(where, f"importing '{reference}' raised {describe_error(cause)}", advice(cause))) from cause


def describe_error(cause: BaseException) -> str:
    """Return what the user's code raised, on one line, with its innermost line outside the standard library and packages."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(cause.__traceback__)]
    own = [f"{file}:{line}" for file, line in frames[1:] if _is_user_file(file)]
    text = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
    return f"{text} ({own[-1]})" if own else text


def advice(cause: BaseException) -> str:
    """Return what to do about an error of code for TensorFlow 1 or for a training machine; empty if that is not known."""
    text = f"{type(cause).__name__}: {cause}"
    if known := next((do for pattern, do in _ADVICE if re.search(pattern, text)), ""):
        return known
    if isinstance(cause, ModuleNotFoundError) and cause.name:
        frames = traceback.extract_tb(cause.__traceback__)
        own = [f"{frame.filename}:{frame.lineno}" for frame in frames if _is_user_file(frame.filename)]
        at = f" at {own[-1]}" if own else ""
        return f"install {cause.name.split('.')[0]}, or move its import{at} into the function that needs it"
    return ""


def _is_user_file(file: str) -> bool:
    examples = file.startswith(os.path.join(_PACKAGE, "examples"))
    installed = not _INSTALLED.isdisjoint(Path(file).parts)
    return os.path.isabs(file) and (examples or not (installed or file.startswith((_PACKAGE, *_FOREIGN))))


def users_file(module: str) -> str | None:
    """Return the file of a user's module, found without importing it; None for one that is installed or does not exist."""
    path, origin = None, None
    for depth, name in enumerate(itertools.accumulate(module.split("."), "{}.{}".format)):
        spec = _spec(name, path) if depth == 0 or path is not None else None
        if spec is None:
            return None
        path, origin = spec.submodule_search_locations, spec.origin
    return origin if origin and _is_user_file(origin) else None


def method(definition: Definition, name: str, where: str) -> Definition:
    """Return the method `name` of a class that was examined.

    Raises:
        ConfigError: the class has no such method.
    """
    if not isinstance(definition.node, ast.ClassDef):
        return Definition(definition.file)
    found = _functions(definition.node)
    if name in found and _is_undecorated(found[name]):
        return _signature(found[name], definition.file, bound=True)
    if definition.node.bases or name in _defined_names(definition.node):
        return Definition(definition.file)
    raise ConfigError(
        Problem(where, f"class {definition.node.name} has no method '{name}'", did_you_mean(name, _public(found, name)))
    )


def constructor(definition: Definition) -> Definition:
    """Return the constructor of a class that was examined; one that is inherited or decorated takes any arguments."""
    node = definition.node
    if not isinstance(node, ast.ClassDef):
        return definition
    init = _functions(node).get("__init__")
    if init is not None and _is_undecorated(init) and not node.decorator_list:
        return _signature(init, definition.file, bound=True)
    return Definition(definition.file, variadic=bool(init or node.bases or node.decorator_list), node=node)


def _find(module: str, where: str) -> str | None:
    path, origin = None, None
    parts = module.split(".")
    for i in range(len(parts)):
        name = ".".join(parts[: i + 1])
        spec = _spec(name, path)
        if spec is None and name in sys.modules:
            return getattr(sys.modules[name], "__file__", None)
        if spec is None:
            raise ConfigError(Problem(where, f"there is no module '{name}'", _nearest_modules(parts[i], path)))
        path, origin = spec.submodule_search_locations, spec.origin
        if path is None and i + 1 < len(parts):
            raise ConfigError(Problem(where, f"'{name}' is a module, not a package", f"write {name}:name"))
    return origin


def _spec(name: str, path: Any) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path) if hasattr(finder, "find_spec") else None
        if spec is not None:
            return spec
    return None


def _nearest_modules(name: str, path: Any) -> str:
    near = did_you_mean(name, [m.name for m in pkgutil.iter_modules(path)])
    return near if near.startswith("did") else "is it installed, or in the working directory?"


def _definition(tree: ast.Module, name: str, file: str, where: str) -> Definition:
    defined = _defined_names(tree)
    if name not in defined:
        if "*" in defined or "__getattr__" in defined:
            return Definition(file)
        raise ConfigError(Problem(where, f"there is no '{name}' in {file}", _near(name, tree)))
    node = defined[name]
    if isinstance(node, ast.ClassDef):
        return Definition(file, node=node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list:
        return _signature(node, file)
    if isinstance(node, ast.Import):
        what = f"'{name}' in {file} is an imported module and cannot be called"
        raise ConfigError(Problem(where, what, _near(name, tree) or "choose another name"))
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
        raise ConfigError(Problem(where, f"'{name}' in {file} cannot be called", _near(name, tree) or "choose another name"))
    return Definition(file)


def _near(name: str, tree: ast.Module) -> str:
    """Return advice with the names in a module that may be called: its functions and classes, else what it assigns."""
    assigned = [
        n for n, node in _defined_names(tree).items() if isinstance(node, ast.Assign | ast.AnnAssign) and not _is_literal(node)
    ]
    functions = _callables(tree)
    return did_you_mean(name, _public(functions, name) or _public(assigned, name))


def _is_literal(node: ast.Assign | ast.AnnAssign) -> bool:
    return isinstance(node.value, ast.Constant | ast.List | ast.Dict | ast.Tuple | ast.Set | None)


def _public(names: Collection[str], asked: str) -> list[str]:
    """Return the names that a user may choose; private ones only if the name asked for is private."""
    return [name for name in names if asked.startswith("_") or not name.startswith("_")]


def _defined_names(tree: ast.Module | ast.ClassDef) -> dict[str, ast.AST]:
    """Return every name that the body of a module or class defines, also inside if, try, with and loops."""
    defined: dict[str, ast.AST] = {}
    for node in _statements(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {(alias.asname or alias.name).split(".")[0]: node for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.With | ast.For):
            defined |= {n.id: node for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return defined


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While):
            handlers = [handler.body for handler in getattr(node, "handlers", [])]
            for part in (node.body, getattr(node, "orelse", []), getattr(node, "finalbody", []), *handlers):
                yield from _statements(part)


def _callables(tree: ast.Module) -> list[str]:
    return [name for name, node in _defined_names(tree).items() if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def _functions(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}


def _is_undecorated(node: ast.FunctionDef) -> bool:
    """Return whether a method's parameters are as written: at most staticmethod or classmethod decorates it."""
    return all(isinstance(d, ast.Name) and d.id in ("staticmethod", "classmethod") for d in node.decorator_list)


def _signature(node: Any, file: str, bound: bool = False) -> Definition:
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    positional = [a.arg for a in (*node.args.posonlyargs, *node.args.args)][1 if bound and not static else 0 :]
    defaults = len(node.args.defaults)
    required = positional[: len(positional) - defaults] if defaults else positional
    keyword = [a.arg for a in node.args.kwonlyargs]
    required = [*required, *(k for k, d in zip(keyword, node.args.kw_defaults, strict=True) if d is None)]
    return Definition(file, (*positional, *keyword), tuple(required), node.args.kwarg is not None, node)
