"""A copy of a SavedModel at another place, which cannot read any other file of this machine.

An export that works only where it was made has a path in its graph: of a vocabulary that was not collected as an asset, or of a
checkpoint. In the copy, each string in a constant that is the path of a file on this machine is replaced by a path where there
is no file. A loader feeds the paths of assets, so a complete export is not affected.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from exportkit.metagraph import read_saved_model
from exportkit.protos import SavedModel, types_pb2
from exportkit.verifying.parity import seeding

ELSEWHERE = "/nowhere"
_MOST = 64  # strings in one constant; a larger one is a vocabulary, not paths


def relocate(directory: Path, target: Path, *, seeded: bool = False) -> list[str]:
    """Copy the SavedModel `directory` to `target`: as symbolic links, with a graph without paths of this machine.

    Args:
        directory: the SavedModel.
        target: the directory of the copy.
        seeded: whether the copy's random ops draw the same numbers in every process.

    Returns:
        The paths that were replaced.

    Raises:
        BindingError: `directory` has no saved_model.pb that can be read.
    """
    model = read_saved_model(directory)
    for path in filter(Path.is_file, directory.rglob("*")):
        link = target / path.relative_to(directory)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    taken = list(_replace_paths(model))
    if seeded:
        for meta in model.meta_graphs:
            seeding.seed(meta)
    if taken or seeded:
        _rewrite(target, model)
    return taken


def _rewrite(copy: Path, model: SavedModel) -> None:
    """Write another graph into the copy, in place of the link to the SavedModel's own, binary or text."""
    for name in ("saved_model.pb", "saved_model.pbtxt"):
        (copy / name).unlink(missing_ok=True)
    (copy / "saved_model.pb").write_bytes(model.SerializeToString())


def _replace_paths(model: SavedModel) -> Iterator[str]:
    """Replace the paths of files in the model's constants, and yield those that were replaced."""
    for node in (node for meta in model.meta_graphs for node in seeding.nodes(meta)):
        if not _is_text(node):
            continue
        strings = node.attr["value"].tensor.string_val
        for i, text in enumerate(strings):
            if _is_path(text):
                yield text.decode()
                strings[i] = ELSEWHERE.encode() + b"/" + text.lstrip(b"/")


def _is_text(node: Any) -> bool:
    if node.op != "Const" or node.attr["dtype"].type != types_pb2.DT_STRING:
        return False
    return len(node.attr["value"].tensor.string_val) <= _MOST


def _is_path(text: bytes) -> bool:
    """Return whether `text` is the path of a file, or the prefix of a checkpoint."""
    if b"/" not in text or b"\0" in text or len(text) > os.pathconf("/", "PC_PATH_MAX"):
        return False
    return os.path.isfile(text) or os.path.isfile(text + b".index")


def outside(text: str, taken: Iterable[str]) -> str | None:
    """Return the replaced path that `text`, an error of the copy, contains; None if there is none."""
    return next((path for path in taken if f"{ELSEWHERE}/{path.lstrip('/')}" in text), None)
