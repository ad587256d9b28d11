"""The allow-list of ops, and the capabilities that they can have."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

PURE = "pure"
UNKNOWN = "unknown"
ON_IMPORT = "on_import"


@dataclass(frozen=True)
class Capability:
    """One thing that an op can do beyond computing its outputs.

    Attributes:
        can: what it can do, as in "can read host files".
        refused: whether a graph that has it is exported and run only where the config allows that by name.
    """

    can: str
    refused: bool = False


CAPABILITIES: Mapping[str, Capability] = {
    "writes_host_files": Capability("write host files", refused=True),
    "reads_host_files": Capability("read host files", refused=True),
    "network": Capability("use the network", refused=True),
    "python": Capability("run Python", refused=True),
    "host_code": Capability("run host code, such as a custom call", refused=True),
    "aborts": Capability("end its process", refused=True),
    UNKNOWN: Capability("do what is not known", refused=True),
    "reads_assets": Capability("read its assets"),
    "restores_variables": Capability("restore its variables"),
    "saves_variables": Capability("save its variables"),
    "random": Capability("answer at random"),
    "stateful": Capability("keep state across requests"),
    "prints": Capability("print"),
    "unbounded": Capability("loop or grow without a bound"),
}
"""Capability → what it means, the gravest first."""

HOST_FILES = "host_files"
ALLOWANCES: Mapping[str, Collection[str]] = {
    HOST_FILES: ("reads_host_files", "writes_host_files"),
    **{name: (name,) for name, capability in CAPABILITIES.items() if capability.refused},
}
"""What a config may write in `allow.ops` → the capabilities that this allows."""


def refused(capability: str, allowed: Collection[str]) -> bool:
    """Return whether a capability is refused unless allowed, and not covered by the allowances `allowed`."""
    return CAPABILITIES[capability].refused and not any(capability in ALLOWANCES.get(name, ()) for name in allowed)


def of_op(op: str) -> frozenset[str]:
    """Return the capabilities of an op in the worst case; ``unknown`` for an op that is not on the list."""
    return _table()[0].get(op, _UNLISTED)


def on_import(op: str) -> bool:
    """Return whether TensorFlow may evaluate an op with dangerous capabilities while it imports a graph, without a session.

    Shape inference evaluates what it takes for a constant: every op that is not registered as stateful
    (tensorflow/core/common_runtime/eval_const_tensor.cc). An import of DebugIdentity writes its files.
    """
    known, evaluated = _table()
    return op in evaluated or op not in known


def is_listed(op: str) -> bool:
    """Return whether the list has the op, looked at by a person."""
    return op in _table()[0]


_UNLISTED = frozenset({UNKNOWN})


@cache
def _table() -> tuple[Mapping[str, frozenset[str]], frozenset[str]]:
    """Read ``ops.txt``: op → capabilities, and the ops that an import may evaluate."""
    text = files(__package__).joinpath("ops.txt").read_text(encoding="utf-8")
    known: dict[str, frozenset[str]] = {}
    evaluated = set()
    shared: dict[str, frozenset[str]] = {PURE: frozenset()}
    for line in text.splitlines():
        op, _, words = line.partition(": ")
        if not words or line[0] == "#" or words.endswith("?"):
            continue
        if words.endswith(ON_IMPORT):
            words = words.removesuffix(ON_IMPORT).rstrip()
            evaluated.add(op)
        if words not in shared:
            shared[words] = frozenset(words.split())
        known[op] = shared[words]
    return known, frozenset(evaluated)
