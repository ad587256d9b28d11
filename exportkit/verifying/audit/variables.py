"""Checks of a version's weights: do their bytes have their checksums, and are they those of a checkpoint?"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from exportkit.checkpoint import Bundle, check_copied, open_checkpoint
from exportkit.config.reader import Reader
from exportkit.errors import Problem, WeightsError, some
from exportkit.metagraph import Graph
from exportkit.planning import weights
from exportkit.spec import Weights
from exportkit.verifying.audit.finding import Finding

BOOKKEEPING = ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter")


def check(directory: Path, saved_model: Any | None) -> Iterator[Finding]:
    """Check every tensor's bytes against their checksum.

    Raises:
        WeightsError: the index cannot be read, or tensors do not have their checksum.
    """
    if not (directory / "variables" / "variables.index").exists():
        yield _without_index(saved_model)
        return
    bundle = _opened(directory)
    check_copied(bundle, {})  # reads every tensor
    yield from _longer(bundle)
    size = sum(entry.size for entry in bundle.entries.values())
    yield Finding(True, "variables", f"{len(bundle.entries)} tensors, {size:,} bytes: every checksum holds")


def _longer(bundle: Bundle) -> Iterator[Finding]:
    """Yield a failure for each data file with bytes behind those that the index describes: no checksum covers them."""
    described: dict[str, int] = {}
    for part in (part for entry in bundle.entries.values() for part in entry.parts):
        path = bundle.data_path(part)
        described[path] = max(described.get(path, 0), part.offset + part.size)
    for path, size in sorted(described.items()):
        if more := bundle.files[path].size - size:
            why = f"{os.path.basename(path)} has {more:,} bytes more than its index describes"
            yield Finding(False, "variables", why, "take the version from where it was published")


def data_files(directory: Path) -> set[str]:
    """Return the data files that the index describes, relative to the version."""
    if not (directory / "variables" / "variables.index").exists():
        return set()
    return {os.path.relpath(path, directory) for path in _opened(directory).files}


def _without_index(saved_model: Any | None) -> Finding:
    known = [name for meta in saved_model.meta_graphs for name in Graph(meta).variables] if saved_model else []
    if not known:
        return Finding(True, "variables", "there are none, and the graph has none")
    why = (
        f"variables.index is missing, and the graph has {len(known)} variables: it loads all the same, and every request fails"
    )
    return Finding(False, "variables", why, "take the version from where it was published")


def names(directory: Path) -> set[str]:
    """Return the names of the variables that the files have values for."""
    if not (directory / "variables" / "variables.index").exists():
        return set()
    bundle = _opened(directory)
    return {*bundle.entries, *bundle.aliases}


def _opened(directory: Path) -> Bundle:
    return Bundle(directory / "variables" / "variables")


def compare(directory: Path, saved_model: Any, against: str, manifest: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Compare the checksums of the version's tensors with those of a checkpoint.

    Args:
        directory: the version.
        saved_model: its SavedModel proto.
        against: the checkpoint, as a prefix, one of its files or a directory.
        manifest: its manifest, whose config has the rules that map names; or None.
    """
    written, checkpoint = _opened(directory), open_checkpoint(against)
    find = _by_object if written.aliases else _by_name
    keys, problems = find(written, checkpoint, saved_model, manifest)
    tensors = [key for key in written.entries if not key.startswith(BOOKKEEPING)]
    if (problems or written.aliases) and not _alike(written, checkpoint, keys):
        yield _of_another_model(checkpoint, tensors)
        return
    problems += _differences(written, {name: (checkpoint, key) for name, key in keys.items()})
    for problem in problems:
        yield Finding(False, "weights", problem.what, problem.do)
    if rest := [key for key in tensors if key not in keys]:
        yield Finding(None, "weights", f"nothing in {checkpoint.prefix} to compare {', '.join(rest)} with")
    if keys and not problems:
        yield Finding(True, "weights", f"{len(keys)}/{len(tensors)} tensors have the checksums of {checkpoint.prefix}")


def _alike(written: Bundle, checkpoint: Bundle, keys: Mapping[str, str]) -> bool:
    """Return whether any tensor of the version is in the checkpoint with the same dtype and shape; `keys`: name → key there."""
    pairs = ((written.entries[name], checkpoint.entries[key]) for name, key in keys.items())
    return any((one.dtype, one.shape) == (other.dtype, other.shape) for one, other in pairs)


def _of_another_model(checkpoint: Bundle, tensors: Sequence[str]) -> Finding:
    held = [key for key in checkpoint.entries if not key.startswith(BOOKKEEPING)]
    what = f"{checkpoint.prefix} is of another model: none of the {len(tensors)} tensors ({some(tensors, 3)}) is in it"
    return Finding(False, "weights", what, f"name the checkpoint of this version; that one holds {some(held, 3)}")


Found = tuple[dict[str, str], list[Problem]]


def _by_name(written: Bundle, checkpoint: Bundle, saved_model: Any, manifest: Mapping[str, Any] | None) -> Found:
    """Return tensor → key of the checkpoint, by the export's rules, and a problem for each without a key or of other shape."""
    config = (manifest or {}).get("config", {})
    rules = Reader(Path()).read(Weights, config.get("weights") or {}, "weights") or Weights()
    variables = weights.by_name([Graph(meta).variables for meta in saved_model.meta_graphs])
    coverage, problems = weights.cover(variables, checkpoint, rules, set())
    return {name: key for name, key in coverage.keys.items() if name in written.entries}, problems


def _by_object(written: Bundle, checkpoint: Bundle, *_: Any) -> Found:
    """Return tensor → key for a version that TensorFlow 2 wrote.

    Its tensors have the names of objects; they are also looked up by the names of their variables.
    """
    names = {key: name for name, key in written.aliases.items()}
    wanted = {key: (key, names.get(key), checkpoint.aliases.get(names.get(key, ""))) for key in written.entries}
    found = {key: [name for name in keys if name and name in checkpoint.entries] for key, keys in wanted.items()}
    return {key: keys[0] for key, keys in found.items() if keys and not key.startswith(BOOKKEEPING)}, []


def _differences(written: Bundle, sources: Mapping[str, tuple[Bundle, str]]) -> tuple[Problem, ...]:
    try:
        check_copied(written, sources)
    except WeightsError as error:
        return error.problems
    return ()
