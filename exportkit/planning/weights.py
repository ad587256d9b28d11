"""Variables ↔ checkpoint keys: every variable gets its value from exactly one declared place, or the export is refused."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from exportkit.checkpoint import Bundle
from exportkit.errors import Problem, nearest, some
from exportkit.metagraph import SavedVariable, Variable, saved_variables
from exportkit.spec import Weights

AVERAGE = "/ExponentialMovingAverage"


@dataclass(kw_only=True)
class Coverage:
    """Where every variable's value comes from.

    Attributes:
        saved: name in the export → the variable.
        keys: name in the export → checkpoint key.
        initialized: names whose value is their initialiser's, because the config says so.
        notes: lines for the report.
    """

    saved: dict[str, SavedVariable] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    initialized: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def summary(self, equal: int | None = None) -> str:
        """Return ``32/32 variables equal to the checkpoint, 0 initialised`` once `equal` of them were compared with it."""
        if not self.saved:
            return "no variables"
        found = (
            f"{len(self.keys)}/{len(self.saved)} variables from"
            if equal is None
            else f"{equal}/{len(self.saved)} variables equal to"
        )
        return f"{found} the checkpoint, {len(self.initialized)} initialised"


def check(weights: Weights, where: str = "weights") -> Iterator[Problem]:
    """Report regular expressions that do not compile, and keys that refer to groups that do not exist."""
    for i, rule in enumerate(weights.names):
        place = f"{where}.names[{i}]"
        found = _compiled(rule.variable, f"{place}.variable")
        if isinstance(found, Problem):
            yield found
            continue
        names = {number: name for name, number in found.groupindex.items()}
        groups = (f"(?P<{names[i]}>)" if i in names else "()" for i in range(1, found.groups + 1))
        try:
            if matched := re.match("".join(groups), ""):
                matched.expand(rule.key)
        except (re.error, IndexError) as cause:
            yield Problem(f"{place}.key", f"'{rule.key}' does not fit the expression: {cause}", r"write \1 for its first group")
    for i, pattern in enumerate(weights.initialize):
        problem = _compiled(pattern, f"{where}.initialize[{i}]")
        if isinstance(problem, Problem):
            yield problem


def _compiled(pattern: str, where: str) -> re.Pattern[str] | Problem:
    try:
        return re.compile(pattern)
    except re.error as cause:
        return Problem(where, f"'{pattern}' is not a regular expression: {cause}", "fix it")


def cover(variables: Iterable[Variable], bundle: Bundle, weights: Weights, hits: set[str]) -> tuple[Coverage, list[Problem]]:
    """Find the one place that each variable's value comes from.

    Args:
        variables: the variables that the signatures reach, of all meta graphs of one checkpoint.
        bundle: the checkpoint's index.
        weights: the config's rules.
        hits: the rules and patterns that matched a variable are added to it, for `unused`.

    Returns:
        The coverage, and what is wrong: variables without a value, with the nearest keys, and those whose shape or dtype
        is not the checkpoint's (a stale graph or another run's checkpoint).
    """
    coverage = Coverage(saved=saved_variables(variables))
    problems: list[Problem] = []
    uncovered: dict[str, str] = {}
    without_average: list[str] = []
    for name, variable in coverage.saved.items():
        pattern = next((p for p in weights.initialize if re.fullmatch(p, name)), None)
        if pattern is not None:
            hits.add(f"initialize {pattern}")
            coverage.initialized.append(name)
            continue
        key = _key(name, bundle, weights, hits, without_average)
        if key is None:
            uncovered[name] = _wanted(name, weights)
            continue
        coverage.keys[name] = key
        problems += _mismatch(variable, bundle, key)
    problems += _uncovered(uncovered, bundle)
    coverage.notes += _average_notes(coverage, bundle, weights, without_average)
    return coverage, problems


def _wanted(name: str, weights: Weights) -> str:
    """Return the key that the rules give to a variable, before moving averages."""
    for rule in weights.names:
        matched = re.fullmatch(rule.variable, name)
        if matched:
            return matched.expand(rule.key)
    return name


def _key(name: str, bundle: Bundle, weights: Weights, hits: set[str], without_average: list[str]) -> str | None:
    hits.update(f"names {rule.variable}" for rule in weights.names if re.fullmatch(rule.variable, name))
    wanted = _wanted(name, weights)
    if weights.moving_average:
        average = _lookup(wanted + AVERAGE, bundle)
        if average is not None:
            return average
        without_average.append(name)
    return _lookup(wanted, bundle)


def _lookup(name: str, bundle: Bundle) -> str | None:
    if name in bundle.entries:
        return name
    alias = bundle.aliases.get(name)
    return alias if alias in bundle.entries else None


def _uncovered(wanted: Mapping[str, str], bundle: Bundle, most: int = 10) -> Iterator[Problem]:
    """Report variables without a value, each with its nearest keys; of a long list the rest by name only."""
    known = [*bundle.entries, *bundle.aliases]
    for name, key in list(wanted.items())[:most]:
        near = nearest(key, known)
        do = f"its nearest keys: {', '.join(near)}; " if near else ""
        do += "map it with weights.names, or list it in weights.initialize"
        yield Problem(bundle.prefix, f"variable {_quoted(name, key)} is not in the checkpoint", do)
    if rest := list(wanted)[most:]:
        do = f"is it the checkpoint of another model? it holds {some(known)}"
        yield Problem(bundle.prefix, f"{len(rest)} more variables are not in the checkpoint: {some(rest)}", do)


def _quoted(name: str, key: str) -> str:
    return f"'{name}'" + (f" (as '{key}')" if key != name else "")


def _mismatch(variable: SavedVariable, bundle: Bundle, key: str) -> Iterator[Problem]:
    entry = bundle.entries[key]
    named, do = _quoted(variable.name, key), "take the graph and the checkpoint of one run"
    if variable.shape is not None and not _same_shape(variable.shape, entry.shape):
        in_graph = f"[{', '.join('?' if size is None else str(size) for size in variable.shape)}]"
        what = f"variable {named} is {in_graph} in the graph and {list(entry.shape)} in the checkpoint"
        yield Problem(bundle.prefix, what, do)
    if variable.dtype != entry.dtype:
        what = f"variable {named} is {variable.dtype} in the graph and {entry.dtype} in the checkpoint"
        yield Problem(bundle.prefix, what, do)


def _same_shape(graph: tuple[int | None, ...], saved_shape: tuple[int, ...]) -> bool:
    return len(graph) == len(saved_shape) and all(g in (None, s) for g, s in zip(graph, saved_shape, strict=True))


def unused(weights: Weights, hits: set[str]) -> Iterator[Problem]:
    """Report the rules and patterns that no variable matched, once all variables were covered."""
    for i, rule in enumerate(weights.names):
        if f"names {rule.variable}" not in hits:
            yield Problem(f"weights.names[{i}].variable", f"'{rule.variable}' matches no variable", "fix or drop the rule")
    for i, pattern in enumerate(weights.initialize):
        if f"initialize {pattern}" not in hits:
            yield Problem(f"weights.initialize[{i}]", f"'{pattern}' matches no variable", "fix or drop the pattern")


def _average_notes(coverage: Coverage, bundle: Bundle, weights: Weights, without: list[str]) -> list[str]:
    if weights.moving_average:
        taken = sum(key.endswith(AVERAGE) for key in coverage.keys.values())
        rest = f", none for {some(without)}" if without else ""
        return [f"{taken} moving averages taken{rest}"]
    unused = [name for name in coverage.keys if _lookup(name + AVERAGE, bundle)]
    return [f"{len(unused)} moving averages not used; weights.moving_average=true takes them"] if unused else []


def by_name(rows: Iterable[Mapping[str, Variable]]) -> list[Variable]:
    """Return the union of several meta graphs' variables, each name once."""
    union: dict[str, Variable] = {}
    for variables in rows:
        for name, variable in variables.items():
            union.setdefault(name, variable)
    return list(union.values())
