"""Problems of names that a config does not have: options of groups, and keys; the same whoever composed it."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from exportkit.cli import conffiles
from exportkit.cli.choices import GROUPS
from exportkit.cli.conffiles import relative
from exportkit.errors import Problem, did_you_mean, some

NO_KEY = "no such key"


def no_option(group: str, name: str, options: Collection[str], user: Path | None) -> Problem:
    """Return the problem of an option that a group does not have.

    Args:
        group: its name, not empty.
        name: the option.
        options: those that there are.
        user: the user's directory of configs.
    """
    what = f"there is no '{name}'"
    if misplaced := conffiles.misplaced(user, group, name) if group in GROUPS else "":
        return Problem(group, what, misplaced)
    if options:
        return Problem(group, what, did_you_mean(name, options) or those(options))
    place = f"{relative(user or Path('conf'))}/{group}/{name}.yaml"
    return Problem(group, what, f"write {place}, or name its directory with --config-dir")


def those(options: Collection[str]) -> str:
    """Return which options there are; an empty text for none."""
    return f"there are {some(sorted(options), 8)}" if options else ""


def no_key(where: str, known: Iterable[str], in_schema: bool, in_dict: bool, same_leaf: Callable[[], Sequence[str]]) -> Problem:
    """Return the problem of a key that a mapping does not have.

    Args:
        where: the whole key.
        known: the keys that the mapping has, or may have.
        in_schema: whether a dataclass decides what keys there may be.
        in_dict: whether any may be added.
        same_leaf: gives the whole keys elsewhere that end as this one does.
    """
    parent, _, name = where.rpartition(".")
    if where in GROUPS:
        do = f"write {where}=NAME; begin its files with # @package _global_"
        return Problem(where, "is a choice of files and has no keys", do)
    if parent == "source" and not in_schema:
        return Problem(where, "no source is chosen", "choose a model=NAME, or a source=KIND")
    near = _with_parent(did_you_mean(name, known, most=2), parent)
    if not parent and not near:
        near = _either(same_leaf())
    if in_dict and parent and parent != "post":
        return Problem(where, NO_KEY, f"{near} " * near.startswith("did") + f"to add it, write +{where}=VALUE")
    return Problem(where, NO_KEY, near)


def of_steps(problem: Problem, steps: Sequence[str]) -> Problem:
    """Return a problem about ``post`` with the nearest steps that exist, and any other problem as it is."""
    if found := re.fullmatch(r"post\.(\w+)", problem.where):
        if found[1] in steps and problem.what == NO_KEY:
            return Problem(problem.where, "the step is not chosen", f"choose it: post=[{found[1]}]")
        return replace(problem, do=problem.do or did_you_mean(found[1], steps)) if problem.what == NO_KEY else problem
    missing = re.match(r"there is no '(\w+)'", problem.what)
    return (
        replace(problem, do=did_you_mean(missing[1], steps) or problem.do) if missing and problem.where == "post" else problem
    )


def _either(keys: Sequence[str], most: int = 3) -> str:
    return f"did you mean {' or '.join(keys)}?" if 0 < len(keys) <= most else ""


def _with_parent(advice: str, parent: str) -> str:
    """Return ``did you mean builder?`` as ``did you mean source.builder?``."""
    if not parent or not advice.startswith("did you mean "):
        return advice
    names = re.split(r"(, | or )", advice.removeprefix("did you mean ").removesuffix("?"))
    return "did you mean " + "".join(n if n in (", ", " or ") else f"{parent}.{n}" for n in names) + "?"
