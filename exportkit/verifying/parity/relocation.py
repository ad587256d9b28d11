"""A SavedModel at another place, from which nothing else of this machine can be read.

What makes an export work only where it was made is a path in its graph: of a vocabulary that was not collected as an asset, or
of a checkpoint. In the copy, each text in a constant that is the path of a file here is another one, where there is no
file. A loader feeds the paths of assets, so that an export that is whole does not notice.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from exportkit.metagraph import read_saved_model
from exportkit.protos import SavedModel, types_pb2
from exportkit.verifying.parity import seeding

ELSEWHERE = "/nowhere"
_MOST = 64  # strings in one constant; more are a vocabulary, not paths


def relocate(directory: Path, target: Path, *, seeded: bool = False) -> list[str]:
    """Make a copy of the SavedModel `directory` as `target`: symbolic links, and a graph without paths of this machine.

    Args:
        seeded: whether its random ops shall draw the same numbers in every process.

    Returns:
        The paths that were taken out.

    Raises:
        BindingError: there is no saved_model.pb to read.
    """
    model = read_saved_model(directory)
    for path in filter(Path.is_file, directory.rglob("*")):
        link = target / path.relative_to(directory)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    taken = list(_take_out(model))
    if seeded:
        for meta in model.meta_graphs:
            seeding.seed(meta)
    if taken or seeded:
        _rewrite(target, model)
    return taken


def _rewrite(copy: Path, model: SavedModel) -> None:
    """Give the copy another graph; the links to the SavedModel's own, binary or text, go."""
    for name in ("saved_model.pb", "saved_model.pbtxt"):
        (copy / name).unlink(missing_ok=True)
    (copy / "saved_model.pb").write_bytes(model.SerializeToString())


def _take_out(model: SavedModel) -> Iterator[str]:
    for node in (node for meta in model.meta_graphs for node in seeding.nodes(meta)):
        strings = node.attr["value"].tensor.string_val if _is_text(node) else ()
        for i, text in enumerate(strings):
            if _is_path(text):
                yield text.decode()
                strings[i] = ELSEWHERE.encode() + b"/" + text.lstrip(b"/")


def _is_text(node: Any) -> bool:
    if node.op != "Const" or node.attr["dtype"].type != types_pb2.DT_STRING:
        return False
    return len(node.attr["value"].tensor.string_val) <= _MOST


def _is_path(text: bytes) -> bool:
    """Whether it names a file, or a checkpoint by its prefix."""
    if b"/" not in text or b"\0" in text or len(text) > os.pathconf("/", "PC_PATH_MAX"):
        return False
    return os.path.isfile(text) or os.path.isfile(text + b".index")


def outside(text: str, taken: Iterable[str]) -> str | None:
    """The path that was taken out and that `text`, an error of the copy, complains of."""
    return next((path for path in taken if f"{ELSEWHERE}/{path.lstrip('/')}" in text), None)
