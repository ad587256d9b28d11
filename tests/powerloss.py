"""What a power cut can leave on a disk: the operations of a program recorded, and cut off behind each of them.

`recorded` wraps the functions of `os` that change or sync files, so it works wherever Python does. Before and after each call
the tree is looked at, so that what C++ code has written by then is seen too. A file system promises little: what fsync(2) has
not confirmed may be missing, each part for itself. So at each point there are many `states`: of every file that was not synced
its old content, its new one or half of it, and of every directory each of its changed names changed or not.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

OPERATIONS = (
    *("fsync", "fdatasync", "rename", "replace", "link", "symlink", "unlink", "remove", "mkdir", "rmdir"),
    *("write", "pwrite", "writev", "pwritev", "sendfile", "copy_file_range", "splice", "truncate", "ftruncate"),
)
SYNCS = ("fsync", "fdatasync")

Tree = dict[str, Any]
"""Name → bytes of a file, or the tree of a directory."""


@dataclass
class Node:
    """A file or directory.

    Attributes:
        now: a file's bytes; a directory's names with their nodes. As a program sees it.
        synced: the same at its last fsync.
    """

    now: Any
    synced: Any


@dataclass
class Disk:
    """The files below a directory, as a program sees them and as they are on the disk for certain.

    Attributes:
        operations: what has happened, in order.
        seen: every different state that a power cut could have left so far: where, and the tree.
    """

    root: Path
    nodes: dict[int, Node] = field(default_factory=dict)
    operations: list[str] = field(default_factory=list)
    seen: dict[Any, tuple[str, Tree]] = field(default_factory=dict)

    def __post_init__(self):
        self.top = self._look(self.root, {})
        for node in self.nodes.values():
            node.synced = _copy(node.now)  # what was there before is on the disk

    def happened(self, name: str, synced: int | None, where: str) -> None:
        """Take note of an operation; `synced`: the inode that it has synced."""
        present: dict[int, Node] = {}
        self.top = self._look(self.root, present)
        self.nodes = present  # an inode number that is gone may be used again
        if synced in present:
            present[synced].synced = _copy(present[synced].now)
        self.operations.append(f"{name} {where}".rstrip())
        for what, tree in states(self.top):
            self.seen.setdefault(_key(tree), (f"{len(self.operations)}. {self.operations[-1]}, {what}", tree))

    def _look(self, path: Path, present: dict[int, Node]) -> Node:
        status = path.lstat()
        is_directory = path.is_dir() and not path.is_symlink()
        empty = {} if is_directory else b""
        node = self.nodes.setdefault(status.st_ino, Node(empty, _copy(empty)))
        present[status.st_ino] = node
        if is_directory:
            node.now = {name: self._look(path / name, present) for name in sorted(os.listdir(path))}
        else:
            node.now = path.read_bytes() if path.is_file() else b""
        return node


@contextmanager
def recorded(root: Path, also: dict[Any, str] | None = None) -> Iterator[Disk]:
    """Record what happens below `root`; `also`: object → name of a function that changes files in another way."""
    disk, lock = Disk(root), []

    def wrapped(name: str, original: Callable) -> Callable:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if lock:  # looking uses some of these functions itself
                return original(*arguments, **keywords)
            inode = os.fstat(arguments[0]).st_ino if name in SYNCS else None
            where = " ".join(str(one) for one in arguments if isinstance(one, str | Path))
            look(f"before {name}", None, where)
            result = original(*arguments, **keywords)
            look(name, inode, where)
            return result

        def look(what: str, inode: int | None, where: str) -> None:
            lock.append(what)
            try:
                disk.happened(what, inode, where)
            finally:
                lock.pop()

        return call

    with ExitStack() as patches:
        for name in OPERATIONS:
            if hasattr(os, name):
                patches.enter_context(patch.object(os, name, wrapped(name, getattr(os, name))))
        for owner, name in (also or {}).items():
            patches.enter_context(patch.object(owner, name, wrapped(name, getattr(owner, name))))
        yield disk


def states(top: Node) -> Iterator[tuple[str, Tree]]:
    """Yield what the disk may hold after a power cut: of what was not synced nothing, all, one part, or all but one."""
    parts = dict(_unsynced(top, "", set()))
    every = frozenset(parts)
    choices = [frozenset(), every, *(frozenset([part]) for part in parts), *(every - {part} for part in parts)]
    for choice in dict.fromkeys(choices):
        for half in (False, True):
            what = ", ".join(sorted(parts[part] for part in choice)) or "nothing"
            yield f"of it {what}{' (half)' * half}", _tree(top, choice, half)


Part = tuple[int, str]
"""What is synced or not: a node with one of its names, or with ``""`` for the content of a file."""


def _unsynced(node: Node, path: str, known: set[int]) -> Iterator[tuple[Part, str]]:
    """Yield the parts that were not synced, each with its path."""
    if id(node) in known:
        return
    known.add(id(node))
    if not isinstance(node.now, dict):
        if node.now != node.synced:
            yield (id(node), ""), path
        return
    for name in sorted(node.now.keys() | node.synced.keys()):
        if node.now.get(name) is not node.synced.get(name):
            yield (id(node), name), f"{path}/{name}"
        for inner in (node.now.get(name), node.synced.get(name)):
            if inner is not None:
                yield from _unsynced(inner, f"{path}/{name}", known)


def _tree(node: Node, choice: frozenset[Part], half: bool) -> Any:
    """Return what the disk holds where the parts in `choice` have reached it, the content of files half where `half`."""
    if not isinstance(node.now, dict):
        if (id(node), "") not in choice:
            return node.synced
        return node.now[: len(node.now) // 2] if half else node.now
    names = {name: (node.now if (id(node), name) in choice else node.synced).get(name) for name in {**node.now, **node.synced}}
    return {name: _tree(inner, choice, half) for name, inner in sorted(names.items()) if inner is not None}


def _key(tree: Any) -> Any:
    return tuple((name, _key(inner)) for name, inner in tree.items()) if isinstance(tree, dict) else tree


def written(tree: Tree, directory: Path) -> Path:
    """Write a tree to a directory that is made for it."""
    directory.mkdir()
    for name, inner in tree.items():
        written(inner, directory / name) if isinstance(inner, dict) else (directory / name).write_bytes(inner)
    return directory


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value
