"""The files that an export takes in beside its variables: who names them, and that no other file gets in.

A file that the config names is the user's choice. One that the graph names is the choice of whoever made the graph: it must
lie in the working directory, in that of the config or of the checkpoint, or in one of `allow.assets`. Paths are compared after
their symbolic links are followed, and the file that was found for the plan is the only one that goes into the version.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exportkit import files
from exportkit.config.values import leaves
from exportkit.errors import BindingError, ConfigError, Problem
from exportkit.metagraph import Graph
from exportkit.metagraph.kinds import path_constant
from exportkit.operations.base import Feeder, Operation
from exportkit.planning.prepare import Part, Prepared
from exportkit.protos import NodeDef
from exportkit.spec import Asset, ExportPlan

_CHUNK = 1 << 20
_TYPES = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}


@dataclass(frozen=True)
class _Named:
    """A path as somebody names it."""

    path: str
    named_by: str
    where: str
    by_config: bool


def find(plan: ExportPlan, prepared: Prepared) -> tuple[list[Asset], list[Problem]]:
    """Return the assets of the prepared graphs, sorted by path, and what is wrong with those that a graph names."""
    files: dict[str, Asset] = {}
    problems, refused = [], []
    for named in _named(plan, prepared):
        path = os.path.abspath(named.path)
        asset = _examined(path, named)
        if isinstance(asset, Problem):
            problems.append(asset)
        elif named.by_config or _is_chosen(plan, asset) or (reason := _reason(plan, asset.resolved)) is None:
            files.setdefault(path, asset)
        else:
            refused.append((named, asset, reason))
    return sorted(files.values(), key=lambda asset: asset.path), [*problems, *_refusals(plan, refused), *_hidden(prepared)]


def demand(plan: ExportPlan, prepared: Prepared) -> list[Asset]:
    """Return the assets, as they are to be copied.

    Raises:
        ConfigError: a graph names what it may not.
        BindingError: a file is not the one that was planned.
    """
    found, problems = find(plan, prepared)
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    planned = {asset.path: asset for asset in plan.assets}
    if changed := [one for one in found if planned.get(one.path, one).identity != one.identity]:
        raise BindingError(*map(_changed, changed))
    return found


def check_copied(assets: Sequence[Asset], directory: Path) -> None:
    """Check that a version's assets are the planned files, byte for byte.

    Raises:
        BindingError: one is not, or none of them was planned.
    """
    planned = {asset.path.name: asset for asset in assets}
    for copy in sorted(directory.glob("*")):
        if copy.name not in planned:
            raise BindingError(Problem(f"assets/{copy.name}", "was not planned", "plan and export again"))
        if not _equal(planned[copy.name], copy):
            raise BindingError(_changed(planned[copy.name]))


def notes(plan: ExportPlan, known: bool) -> Iterator[str]:
    """Yield which of `allow.assets` is not there, or needed by nothing.

    Args:
        known: whether the assets of all graphs are known.
    """
    for directory in plan.allow.assets:
        place = _resolved(directory)
        if not place.exists():
            yield f"allow.assets: there is no {directory}"
        elif known and not any(asset.resolved.is_relative_to(place) for asset in plan.assets):
            yield f"allow.assets: nothing needs {directory}"


def _named(plan: ExportPlan, prepared: Prepared) -> Iterator[_Named]:
    for name, binding in plan.bindings.items():
        for key, file in binding.files().items() if isinstance(binding, Operation | Feeder) else ():
            if file.exists():  # a missing one is reported with the binding
                yield _Named(str(file), f"bindings.{name}.{key}", f"bindings.{name}.{key}", True)
    for key, part in prepared.parts.items():
        source = plan.resolved[key]
        for node, path in part.pruned.assets.items():
            yield _Named(path, f"node {node}", source.where, source.preview.by_code)


def _examined(path: str, named: _Named) -> Asset | Problem:
    """Return the file at a path, its links followed; or what is wrong with it."""
    try:
        resolved = os.path.realpath(path, strict=True)
        found = os.stat(resolved, follow_symlinks=False)
    except (OSError, ValueError):  # a ValueError for a path with a null character
        return Problem(path, "the graph reads this file as an asset, and it is not there", "put it back, or bake its content")
    if not stat.S_ISREG(found.st_mode):
        what = f"{named.named_by} names it as an asset, and it is {_TYPES.get(stat.S_IFMT(found.st_mode), 'a device')}"
        return Problem(path, what, "put a file there")
    try:
        os.close(files.descriptor(resolved))
    except OSError as error:
        what = f"{named.named_by} names it as an asset, and it cannot be read: {error.strerror}"
        return Problem(path, what, "put a file there that can be")
    return Asset(Path(path), named.named_by, Path(resolved), _identity(found))


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _is_chosen(plan: ExportPlan, asset: Asset) -> bool:
    """Return whether a source is made from the file: its config names it, or its preview does."""
    if any(_resolved(file) == asset.resolved for one in plan.resolved_sources() for file in one.preview.files or ()):
        return True
    values = (value for one in plan.resolved_sources() for _, value in leaves(one.source, one.where))
    return any(_resolved(value) == asset.resolved for value in values if isinstance(value, Path))


def _reason(plan: ExportPlan, file: Path) -> str | None:
    """Return why a graph may not name a file; None if it may."""
    if any(file.is_relative_to(_resolved(allowed)) for allowed in plan.allow.assets):
        return None
    checkpoints = (one.preview.checkpoint for one in plan.resolved_sources())
    own = [Path.cwd(), *plan.directories, *(Path(prefix).parent for prefix in checkpoints if prefix)]
    roots = [root for root in map(_resolved, own) if root != Path("/") and file.is_relative_to(root)]
    hidden = [next((part for part in file.relative_to(root).parts if part.startswith(".")), None) for root in roots]
    if not roots:
        return "outside the working directory, the config's and the checkpoint's"
    return f"hidden behind {hidden[0]}" if all(hidden) else None


def _resolved(path: Any) -> Path:
    return Path(os.path.realpath(os.path.expanduser(path)))


def _refusals(plan: ExportPlan, refused: Sequence[tuple[_Named, Asset, str]]) -> Iterator[Problem]:
    """Yield a problem for each refused file; all show the one line that would allow them all."""
    places = {_place(asset) for _, asset, _ in refused}
    line = f"allow: {{assets: [{', '.join([*plan.allow.assets, *sorted(places)])}]}}"
    for named, asset, reason in refused:
        link = f", a link to {asset.resolved}" if asset.resolved != asset.path else ""
        what = f"the graph takes an asset that is {reason}: {asset.path}{link} ({named.named_by})"
        yield Problem(named.where, what, f"if it may, write {line}")


def _place(asset: Asset) -> str:
    """Return the directory to allow; the file itself where that would allow everything."""
    return str(asset.resolved if asset.resolved.parent == Path("/") else asset.resolved.parent)


def _hidden(prepared: Prepared) -> Iterator[Problem]:
    """Report tables whose file cannot be an asset: its name is computed, or written inside a function."""
    for key, part in prepared.parts.items():
        for node, what in [*_computed(part), *_in_functions(part)]:
            yield Problem(f"meta_graphs.{key}", f"{node} {what}", "name the file in a constant of the graph itself")


def _computed(part: Part) -> Iterator[tuple[str, str]]:
    graph = Graph(part.pruned.meta)
    for node in filter(_fills_from_file, graph.nodes.values()):
        origin = path_constant(graph, node.input[1])
        if origin is not None and origin.op != "Const":
            yield node.name, f"fills a table from a file whose name is computed by {origin.name} ({origin.op})"


def _in_functions(part: Part) -> Iterator[tuple[str, str]]:
    for function in part.pruned.meta.graph_def.library.function:
        constants = {node.name for node in function.node_def if node.op == "Const"}
        for node in filter(_fills_from_file, function.node_def):
            if node.input[1].split(":")[0] in constants:
                yield node.name, f"in the function {function.signature.name} fills a table from a file that it names itself"


def _fills_from_file(node: NodeDef) -> bool:
    return node.op.startswith("InitializeTableFromText") and len(node.input) > 1


def _changed(asset: Asset) -> Problem:
    return Problem(str(asset.path), "is not the file that was planned", "plan and export again")


def _equal(asset: Asset, copy: Path) -> bool:
    """Return whether a file has the content of the planned one, which is still at its place."""
    try:
        descriptor = os.open(asset.resolved, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with open(descriptor, "rb") as original, open(copy, "rb") as copied:
        if _identity(os.fstat(descriptor)) != asset.identity:
            return False
        return all(one == other for one, other in zip(_chunks(original), _chunks(copied), strict=True))


def _chunks(file: Any) -> Iterable[bytes]:
    """Yield the file's content, and an empty piece at its end."""
    while piece := file.read(_CHUNK):
        yield piece
    yield b""
