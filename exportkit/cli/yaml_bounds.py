"""Bounds of config files: a file is checked before it is parsed.

PyYAML's parser in Python and OmegaConf copy what an alias refers to, and call themselves for each level of nesting. So a small
file can hold billions of values; its events, which the C parser yields without building anything, are counted first.
"""

import errno
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import yaml

from exportkit import files
from exportkit.cli.conffiles import at, relative
from exportkit.errors import Problem, shortened

MOST_BYTES = 4 * files.MIB
MOST_VALUES = 25_000  # Hydra composes as many in four seconds
MOST_DEPTH = 40  # OmegaConf calls some twenty functions for each level, and Python allows a thousand
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
APART = ("!", "\t", "\r", "\f", "\x85", "\u2028", "\u2029", "\ufeff")
"""Characters that PyYAML's parser and libyaml do not treat alike in every place, mostly as white space or ends of lines."""
_TAGS = {"!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq"))}
_MOST_DIGITS = 1_000
_INTEGER = re.compile(r"[-+]?[0-9_]+")
_ARRAY = "write large values to a .npy or .npz file and name that"


def unsafe(file: Path) -> Problem | None:
    """Return why `file` is not given to Hydra; None where it may be, or has a mistake that Hydra's error places in it."""
    try:
        text = files.read(file, MOST_BYTES).decode()
    except UnicodeDecodeError:
        return None
    except OSError as cause:
        return Problem(relative(file), f"cannot be read: {cause.strerror}", "" if cause.errno != errno.EFBIG else _ARRAY)
    try:
        return _Events(file).problem(text)
    except yaml.YAMLError as error:
        what = " ".join(str(error).split())
        return (
            None if isinstance(error, yaml.MarkedYAMLError) else Problem(relative(file), f"is not YAML: {shortened(what, 120)}")
        )


class _Events:
    """The events of one file, counted as if each alias were what it refers to."""

    def __init__(self, file: Path):
        self._file = file
        self._sizes: dict[str, int] = {}  # anchor → the values that it stands for
        self._open: list[tuple[str | None, int]] = []  # of each collection around: its anchor, and the values before it
        self._count = 0

    def problem(self, text: str) -> Problem | None:
        return next(chain.from_iterable(map(self._problems, yaml.parse(text, _LOADER))), None)

    def _problems(self, event: yaml.Event) -> Iterator[Problem]:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in [anchor for anchor, _ in self._open]:
                yield Problem(self._place(event), f"*{event.anchor} refers to what it is part of", "write the value")
            self._count += self._sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.ScalarEvent) and not self._count:
                yield Problem(relative(self._file), "is a single value, not a mapping", "write key: value lines")
            self._count += 1
            yield from self._node_problems(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self._open.pop()
            if anchor is not None:
                self._sizes[anchor] = self._count - before
        if self._count > MOST_VALUES:
            yield Problem(
                self._place(event), f"the file holds more than {MOST_VALUES:,} values, its aliases counted in full", _ARRAY
            )

    def _place(self, event: yaml.Event) -> str:
        return at(self._file, event.start_mark.line if event.start_mark else 0)

    def _node_problems(self, event: yaml.NodeEvent) -> Iterator[Problem]:
        tag = str(getattr(event, "tag", None) or "!")
        if tag not in _TAGS:
            shown = shortened(tag.replace("tag:yaml.org,2002:", "!!"), 80)
            yield Problem(self._place(event), f"has the tag {shown}, and only plain values are read", "remove it")
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, self._count - 1))
            if len(self._open) > MOST_DEPTH:
                yield Problem(self._place(event), f"is nested more than {MOST_DEPTH} deep", "write it flatter")
        elif event.anchor is not None:
            self._sizes[event.anchor] = 1
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _MOST_DIGITS and _INTEGER.fullmatch(event.value):
            yield Problem(self._place(event), f"is a number of {len(event.value):,} digits", "put a text in quotes")
