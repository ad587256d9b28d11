"""Problems of a user's config files that Hydra's own messages do not explain: content, name, place."""

import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from exportkit import files
from exportkit.errors import Problem

HEADER = "# @package _global_"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def content_problem(file: Path) -> Problem | None:
    """Return why the content of `file` is no config; None where it is a mapping."""
    root = _root(file)
    if root is None:
        return Problem(relative(file), "is empty", f"begin it with {HEADER}, then write keys: name, source, bindings, …")
    if isinstance(root, yaml.SequenceNode):
        return Problem(relative(file), "is a list, not a mapping", "write key: value lines, without leading dashes")
    if isinstance(root, yaml.ScalarNode):
        return Problem(relative(file), "is a single value, not a mapping", "write key: value lines")
    return None


def boolean_key(file: Path, key: str) -> Problem | None:
    """Return the problem of a key in `file` that YAML reads as a boolean; `key` is its config path (``bindings.False``)."""
    parent, _, value = key.rpartition(".")
    for path, node in _keys(_root(file)):
        if path == parent and node.tag == "tag:yaml.org,2002:bool" and _is_true(node.value) == (value == "True"):
            what = f"YAML reads the key {node.value} as {value.lower()} ({at(file, node.start_mark.line)})"
            return Problem(f"{parent}.{node.value}".lstrip("."), what, f"put it in quotes: '{node.value}'")
    return None


def not_utf8(error: UnicodeDecodeError, user: Path | None) -> Problem:
    """Return the problem of the file below `user` that holds the bytes that `error` could not decode."""
    for file in sorted(user.rglob("*.yaml")) if user else ():
        try:
            data = files.read(file, files.TEXT)
            data.decode()
        except OSError:
            continue
        except UnicodeDecodeError as found:
            if bytes(error.object) in data:
                where = at(file, data.count(b"\n", 0, found.start))
                return Problem(where, f"is not UTF-8 (byte 0x{data[found.start]:02x})", "save the file as UTF-8")
    return Problem("config", f"a file is not UTF-8 ({error.reason})", "save it as UTF-8")


def misplaced(user: Path | None, group: str, name: str) -> str:
    """Return what to do where there is no ``GROUP/NAME.yaml`` but a file that may be meant; an empty text if there is none."""
    conf = user or Path("conf").absolute()
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    place = conf / group / f"{stem}.yaml"
    if place.is_file() and name != stem:
        return f"write {group}={stem}"
    if (short := place.with_suffix(".yml")).is_file():
        return f"rename {relative(short)} to {place.name}"
    if user is not None and user.name == group and (user / place.name).is_file():
        return f"name the directory above: --config-dir {relative(user.parent)}"
    for found in (conf / place.name, Path(group, place.name).absolute(), Path(place.name).absolute()):
        if found.is_file():
            return f"move {relative(found)} to {relative(place)}"
    inner = sorted(conf.glob(f"*/{group}/{place.name}"))
    return f"name the directory that has it: --config-dir {relative(inner[0].parent.parent)}" if inner else ""


def relative(path: Path) -> str:
    """Return `path` relative to the working directory if it lies below, or as it is."""
    return os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)


def at(file: Path, line: int) -> str:
    """Return a place in a file for a message; `line` counts from 0."""
    return f"{relative(file)}:{line + 1}"


def _root(file: Path) -> yaml.Node | None:
    return yaml.compose(files.read(file, files.TEXT).decode(), _LOADER)


def _keys(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, yaml.ScalarNode]]:
    """Yield the keys of all mappings below `node`, each with the config path of its mapping."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode):
            yield prefix, key
            yield from _keys(value, f"{prefix}.{key.value}".lstrip("."))


def _is_true(word: str) -> bool:
    return word.lower() in ("y", "yes", "true", "on")
