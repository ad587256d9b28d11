"""What lies in a version's directory, found without opening or following anything: anybody may have made it."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from exportkit.errors import Problem, shortened
from exportkit.printable import printable

LAYOUT = ("assets", "assets.extra", "variables")
"""The directories of a SavedModel; one of them may be empty, as TensorFlow leaves it."""

_MOST = 100_000  # names below a version; TensorFlow writes tens
_DEEPEST = 32
_SHOWN = 20  # problems of one kind
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


@dataclass
class Contents:
    """What lies in a version.

    Attributes:
        files: the paths of its regular files, relative to it, sorted.
        problems: what no version has: links, FIFOs, sockets, devices, empty directories, too much of anything.
    """

    files: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def look(directory: Path) -> Contents:
    """Return what lies below `directory`. Each entry is looked at once, by lstat(2).

    Raises:
        OSError: the directory cannot be listed.
    """
    found = Contents()
    odd: list[tuple[str, Problem]] = []
    for number, (name, entry) in enumerate(_entries(directory, "", 0)):
        if number == _MOST:
            what = f"more than {_MOST:,} names lie in the version"
            found.problems.append(Problem("files", what, "take it from where it was published"))
            break
        if isinstance(entry, Problem):
            odd.append((name, entry))
        else:
            found.files.append(name)
    problems = [problem for _, problem in sorted(odd, key=lambda pair: pair[0])]
    if len(problems) > _SHOWN:
        problems[_SHOWN:] = [Problem("files", f"{len(problems) - _SHOWN} more names are no files of a version")]
    found.problems[:0] = problems
    found.files.sort()
    return found


def describe(mode: int) -> str:
    """Return what a file that is not a regular one is, by its ``st_mode``: ``a FIFO``."""
    return _KINDS.get(stat.S_IFMT(mode), "not a regular file")


def _entries(directory: Path, above: str, depth: int) -> Iterator[tuple[str, os.DirEntry | Problem]]:
    """Yield the relative name of each file with its entry, and that of each thing that is none with its problem."""
    try:
        with os.scandir(directory) as entries:
            listed = list(entries)
    except FileNotFoundError:
        if depth:
            return  # removed since it was listed: whoever expects files in it finds them missing
        raise
    if not listed and above.rstrip("/") not in LAYOUT and above:
        yield above, Problem(printable(above), "is an empty directory, which is not part of a version", "remove it")
    for entry in listed:
        name = above + entry.name
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
        except FileNotFoundError:
            continue
        if stat.S_ISREG(mode):
            yield name, entry
        elif stat.S_ISLNK(mode):
            do = "put what it leads to in its place (cp -rL), if that is yours"
            yield name, Problem(printable(name), f"is a link to {_target(entry.path)}, and a link can be pointed elsewhere", do)
        elif not stat.S_ISDIR(mode):
            yield name, Problem(printable(name), f"is {describe(mode)}, not a file", "remove it")
        elif depth == _DEEPEST:
            yield name, Problem(shortened(printable(name), 80), f"lies more than {_DEEPEST} directories deep", "remove it")
        else:
            yield from _entries(Path(entry.path), f"{name}/", depth + 1)


def _target(path: str) -> str:
    try:
        return shortened(printable(os.readlink(path)))
    except OSError:
        return "what is gone by now"
