"""References to the user's code, ``package.module:name``: looked at without importing anything, then resolved.

`examine` finds the module through the import system's finders, without importing it or its parents, and reads the
definition with `ast`; what it cannot see (a name made at run time) is left to `resolve`.
"""

import ast
import importlib.machinery
import pkgutil
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from exportkit.errors import ConfigError, Problem, did_you_mean

_FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class Definition:
    """What `ast` tells of a function, or of a class's method.

    Attributes:
        file: where it is written.
        parameters: its parameters' names in order, without self.
        required: those without a default.
        variadic: it takes ``**kwargs``.
        node: the definition itself; None where the name is made in another way (an import, an assignment).
    """

    file: str
    parameters: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    variadic: bool = True
    node: ast.AST | None = None

    def problems(self, given: Collection[str], where: str) -> list[Problem]:
        """What is wrong with calling it with the keyword arguments `given`."""
        if self.variadic and not self.required:
            return []
        unknown = [] if self.variadic else [name for name in given if name not in self.parameters]
        missing = [name for name in self.required if name not in given]
        return [
            *(Problem(f"{where}.{n}", "is not a parameter", did_you_mean(n, self.parameters)) for n in unknown),
            *(Problem(f"{where}.{n}", "has no default and is not given", "set it") for n in missing),
        ]


def examine(reference: str, where: str) -> Definition:
    """What can be told of `reference` without importing it.

    Raises:
        ConfigError: it is not of the form ``package.module:name``, or there is no such module, or no such name in it.
    """
    if not _FORM.fullmatch(reference):
        raise ConfigError(Problem(where, f"'{reference}' is not a reference", "write package.module:name"))
    module, name = reference.split(":")
    file = _find(module, where)
    if file is None or not file.endswith(".py"):
        return Definition(file or module)
    try:
        with open(file, "rb") as source:
            tree = ast.parse(source.read(), file)
    except SyntaxError as cause:
        raise ConfigError(Problem(where, f"{file}:{cause.lineno}: {cause.msg}", "mend the module")) from None
    return _definition(tree, name, file, where)


def resolve(reference: str, where: str) -> Any:
    """Import `reference`.

    Raises:
        ConfigError: the import fails, or the module has no such name.
    """
    try:
        return pkgutil.resolve_name(reference)
    except Exception as cause:
        raise ConfigError(Problem(where, f"importing '{reference}' raised {type(cause).__name__}: {cause}")) from cause


def module_file(module: str) -> str | None:
    """The file of a module, found without importing it; None where there is no such module, or it has none."""
    try:
        return _find(module, "")
    except ConfigError:
        return None


def method(definition: Definition, name: str, where: str) -> Definition:
    """The method `name` of a class that was examined."""
    if not isinstance(definition.node, ast.ClassDef):
        return Definition(definition.file)
    found = _functions(definition.node)
    if name in found:
        return _signature(found[name], definition.file, bound=True)
    if definition.node.bases:
        return Definition(definition.file)
    raise ConfigError(Problem(where, f"class {definition.node.name} has no method '{name}'", did_you_mean(name, found)))


def constructor(definition: Definition) -> Definition:
    """The constructor of a class that was examined; anything goes where it is inherited or made by a decorator."""
    node = definition.node
    if not isinstance(node, ast.ClassDef):
        return definition
    if "__init__" in _functions(node):
        return _signature(_functions(node)["__init__"], definition.file, bound=True)
    return Definition(definition.file, variadic=bool(node.bases or node.decorator_list), node=node)


def _find(module: str, where: str) -> str | None:
    path, spec = None, None
    parts = module.split(".")
    for i in range(len(parts)):
        name = ".".join(parts[: i + 1])
        spec = _spec(name, path)
        if spec is None:
            raise ConfigError(Problem(where, f"there is no module '{name}'", _near_module(parts[i], path)))
        path = spec.submodule_search_locations
        if path is None and i + 1 < len(parts):
            raise ConfigError(Problem(where, f"'{name}' is a module, not a package", f"write {name}:name"))
    return spec.origin


def _spec(name: str, path: Any) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path) if hasattr(finder, "find_spec") else None
        if spec is not None:
            return spec
    return None


def _near_module(name: str, path: Any) -> str:
    near = did_you_mean(name, [m.name for m in pkgutil.iter_modules(path)])
    return near if near.startswith("did") else "is it installed, or in the working directory?"


def _definition(tree: ast.Module, name: str, file: str, where: str) -> Definition:
    made = _made(tree)
    if name not in made:
        if "*" in made or "__getattr__" in made:
            return Definition(file)
        raise ConfigError(Problem(where, f"there is no '{name}' in {file}", did_you_mean(name, _callables(tree) or made)))
    node = made[name]
    if isinstance(node, ast.ClassDef):
        return Definition(file, node=node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list:
        return _signature(node, file)
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
        raise ConfigError(Problem(where, f"'{name}' in {file} cannot be called", did_you_mean(name, _callables(tree))))
    return Definition(file)


def _made(tree: ast.Module) -> dict[str, ast.AST]:
    """Every name that the module's top level makes, also inside its ifs and trys."""
    made: dict[str, ast.AST] = {}
    for node in _top(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(alias.asname or alias.name).split(".")[0]: node for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.With | ast.For):
            made |= {n.id: node for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return made


def _top(body: list[ast.stmt]):
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            for part in (
                node.body,
                node.orelse,
                getattr(node, "finalbody", []),
                *(h.body for h in getattr(node, "handlers", [])),
            ):
                yield from _top(part)


def _callables(tree: ast.Module) -> list[str]:
    return [name for name, node in _made(tree).items() if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def _functions(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}


def _signature(node: Any, file: str, bound: bool = False) -> Definition:
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    positional = [a.arg for a in (*node.args.posonlyargs, *node.args.args)][1 if bound and not static else 0 :]
    defaults = len(node.args.defaults)
    required = positional[: len(positional) - defaults] if defaults else positional
    keyword = [a.arg for a in node.args.kwonlyargs]
    required = [*required, *(k for k, d in zip(keyword, node.args.kw_defaults, strict=True) if d is None)]
    return Definition(file, (*positional, *keyword), tuple(required), node.args.kwarg is not None, node)
