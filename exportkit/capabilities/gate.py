"""The gate in front of everything that imports or runs a graph."""

from collections.abc import Callable, Collection, Iterator

from exportkit.capabilities.audit import Audit, Use
from exportkit.capabilities.oplist import ALLOWANCES, CAPABILITIES, HOST_FILES
from exportkit.errors import BindingError, Problem

_SHOWN = 3


def problems(
    audit: Audit, allowed: Collection[str], where: str, advise: Callable[[str], str] | None = None
) -> Iterator[Problem]:
    """Yield a problem for each capability that can run, is dangerous and not among `allowed` (entries of `allow.ops`).

    Args:
        advise: an entry of `allow.ops` → what to do where there is no config that could have it.
    """
    for capability, uses in audit.dangers(allowed).items():
        do = advise(allowance(capability)) if advise else _way_out(capability)
        yield Problem(where, f"can {CAPABILITIES[capability].can}: {nodes(uses)}", do)


def demand(audit: Audit, allowed: Collection[str], where: str, advise: Callable[[str], str] | None = None) -> None:
    """Refuse a graph with capabilities that are not allowed; the arguments are those of `problems`.

    Raises:
        BindingError: names each such capability with its nodes.
    """
    if found := list(problems(audit, allowed, where, advise)):
        raise BindingError(*found)


def nodes(uses: Collection[Use]) -> str:
    """Return the first nodes in a sentence: ``a (WriteFile), b (WriteFile) and 4 more``."""
    named = list(dict.fromkeys(map(str, uses)))
    return ", ".join(named[:_SHOWN]) + (f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else "")


def _way_out(capability: str) -> str:
    return f"bind tensors that do not need it, or write allow: {{ops: [{allowance(capability)}]}} if this model may do that"


def allowance(capability: str) -> str:
    """Return the entry of `allow.ops` that allows a capability: one for reading and writing files."""
    return HOST_FILES if capability in ALLOWANCES[HOST_FILES] else capability
