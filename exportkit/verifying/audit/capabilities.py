"""Checks of what a version can do, against what its manifest states."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exportkit.capabilities import CAPABILITIES, audit, joined
from exportkit.errors import some
from exportkit.verifying.audit.finding import Finding


def check(saved_model: Any, manifest: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Compare what the graphs can do with what the manifest states; without a statement, only report it."""
    found = joined(map(audit, saved_model.meta_graphs))
    now, stated = found.by_capability(), (manifest or {}).get("capabilities")
    described = ", ".join(f"{CAPABILITIES[name].can} ({some(ops, 3)})" for name, ops in now.items()) or "only compute"
    if stated is None:
        yield Finding(None if found.dangers() else True, "capabilities", f"it can {described}")
    elif stated == now:
        yield Finding(True, "capabilities", f"it can {described}, as the manifest states")
    else:
        do = "export it again, or ask who published it"
        yield Finding(False, "capabilities", f"it can {described}, and the manifest states {_stated(stated)}", do)


def _stated(stated: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{name} ({some(ops, 3)})" for name, ops in stated.items()) or "that it only computes"
