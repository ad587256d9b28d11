"""The identity of an export: digests of everything that it is made from. Equal inputs give equal ones; nothing is built."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from exportkit import files
from exportkit.config import references
from exportkit.config.values import leaves
from exportkit.errors import Problem
from exportkit.operations.base import Feeder, Operation
from exportkit.spec import ExportPlan, File

_DESTINATION = ("export_dir", "version", "report")  # config keys that do not change an export's content
_PACKAGES = ("exportkit", "tensorflow", "tensorflow-cpu", "hydra-core", "omegaconf", "numpy", "protobuf")


def identity(plan: ExportPlan) -> dict[str, Any]:
    """Return the digests of the parts that decide what an export contains, and one digest over them all.

    Returns:
        ``sha256`` over the other keys: ``config``, the resolved config without the destination of the export;
        ``checkpoints``, their indexes; ``graphs``; ``code``, the Python files that build them; ``files`` that the config names;
        ``packages`` with their versions.
    """
    sources = plan.resolved_sources()
    parts = {
        "config": digest({key: value for key, value in plan.config.items() if key not in _DESTINATION}),
        "checkpoints": [resolved.digest for resolved in sources],
        "graphs": [graph_digest(graph) if (graph := resolved.preview.meta_graph) else None for resolved in sources],
        **_read_digests(plan),
        "packages": packages(),
    }
    return {"sha256": digest(parts), **parts}


def changed(before: Mapping[str, Any], plan: ExportPlan) -> list[Problem]:
    """Return a problem for each file, and one for the code, that changed since the identity of `plan` was `before`.

    The build reads them again, so the export may not be what `before` identifies.
    """
    now, do = _read_digests(plan), "export again"
    files = before["files"].keys() | now["files"].keys()
    wheres = [where for where in sorted(files) if before["files"].get(where) != now["files"].get(where)]
    if before["code"] != now["code"]:
        wheres.append("the code that builds the graph")
    return [Problem(where, "was changed while it was exported", do) for where in wheres]


def _read_digests(plan: ExportPlan) -> dict[str, dict[str, str]]:
    """Return the digests of the code and the files that the build reads again."""
    return {
        "code": {str(number): digest(code_digests(resolved.source)) for number, resolved in enumerate(plan.resolved_sources())},
        "files": {where: file_digest(path) for where, path in _content_files(plan)},
    }


def is_complete(plan: ExportPlan) -> bool:
    """Return whether the identity of `plan` covers all that decides its export: each source names its checkpoint or files."""
    return all(one.digest is not None or one.preview.files is not None for one in plan.resolved_sources())


def digest(data: Any) -> str:
    """Return the SHA-256 of plain data, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def graph_digest(meta_graph: Any) -> str:
    """Return the SHA-256 of a MetaGraphDef."""
    return hashlib.sha256(meta_graph.SerializeToString(deterministic=True)).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with files.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packages() -> dict[str, str]:
    """Return distribution → version: of Python, of what reads configs and runs graphs, and of every plugin.

    A plugin that is installed editable changes without its version, so its version is followed by a digest of its files.
    """
    return {"python": platform.python_version(), **dict(_installed())}


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Read once: what a process has imported does not change with what is installed later."""
    modules: dict[str, set[str]] = {}
    for entry in importlib.metadata.entry_points(group="exportkit"):
        if entry.dist is not None:
            modules.setdefault(entry.dist.name, set()).add(entry.module.partition(".")[0])
    plugins = {name: _version(name) for name in modules if name not in _PACKAGES}
    found = dict(sorted({**versions(), **plugins}.items()))
    for name in modules.keys() - {"exportkit"}:
        if _is_editable(name):
            found[name] = f"{found[name]} sha256:{_files_digest(modules[name])}"
    return tuple((name, version) for name, version in found.items() if version)


@cache
def versions() -> Mapping[str, str | None]:
    """Return distribution → version, of what reads configs and runs graphs; None where it is not installed. Read once."""
    return MappingProxyType({name: _version(name) for name in _PACKAGES})


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_editable(name: str) -> bool:
    """Return whether pip installed a distribution from a directory that may change (PEP 610, direct_url.json)."""
    url = importlib.metadata.distribution(name).read_text("direct_url.json")
    return bool(url and json.loads(url).get("dir_info", {}).get("editable"))


def _files_digest(modules: Iterable[str]) -> str:
    """Return the SHA-256 of the files of some top-level modules, with all that lies in their packages."""
    found: dict[str, str] = {}
    for module in sorted(modules):
        spec = importlib.util.find_spec(module)
        places: Sequence[str | None] = [] if spec is None else spec.submodule_search_locations or [spec.origin]
        for place in map(Path, filter(None, places)):
            files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
            found |= {
                str(path.relative_to(place.parent)): file_digest(path) for path in files if "__pycache__" not in path.parts
            }
    return digest(found)


def _content_files(plan: ExportPlan) -> Iterator[tuple[str, Path]]:
    """Yield the files whose content goes into the export, with their places in the config; for a source all that it names.

    The files of the checkpoint are left out: its digest identifies it, and they may have been deleted meanwhile.
    """
    from exportkit.checkpoint import resolve

    for resolved in plan.resolved_sources():
        named = [(where, leaf) for where, leaf in leaves(resolved.source, resolved.where) if _is_file(leaf)]
        yield from ((where, Path(leaf)) for where, leaf in named if resolve(leaf) != resolved.preview.checkpoint)
        for number, file in enumerate(map(Path, resolved.preview.files or ())):
            yield f"{resolved.where}, file {number} ({file.name})", file
    for name, binding in plan.bindings.items():
        if isinstance(binding, Operation | Feeder):
            yield from ((f"bindings.{name}.{key}", path) for key, path in binding.files().items())
    for key, inputs in plan.samples.items():
        for alias, sample in inputs.items():
            inner = {f".{name}": value for name, value in getattr(sample, "features", {}).items()}
            for suffix, one in {"": sample, **inner}.items():
                if isinstance(one, File):
                    yield f"samples.{key}.{alias}{suffix}", one.path


def _is_file(value: Any) -> bool:
    return isinstance(value, Path | str) and len(str(value)) < 4096 and "\0" not in str(value) and os.path.isfile(value)


def code_digests(source: Any) -> Mapping[str, str]:
    """Return module → digest of its file, for the user's modules that a source's references reach by import statements.

    Installed packages and exportkit itself are identified by their versions.
    """
    found: dict[str, str] = {}
    todo = [value.split(":")[0] for _, value in leaves(source, "source") if _is_reference(value)]
    while todo:
        name = todo.pop()
        file = _file(name)
        if name in found or file is None:
            continue
        found[name] = file_digest(file)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        todo += filter(None, [*_imported(ast.parse(file.read_bytes(), str(file)), package), name.rpartition(".")[0]])
    return found


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and ":" in value and _file(value.split(":")[0]) is not None


def _file(module: str) -> Path | None:
    """Return the file of a user's module; None for any other module, and for one that is not a Python file."""
    path = Path(references.users_file(module) or "")
    return path if path.suffix == ".py" else None


def _imported(tree: ast.Module, package: str) -> Iterable[str]:
    """Yield the names of the modules that a module may import: for ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            start = ".".join(filter(None, [base, node.module]))
            yield from (f"{start}.{alias.name}" for alias in node.names)
            yield start
