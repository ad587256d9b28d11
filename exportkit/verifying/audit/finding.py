"""Findings: the result lines of a verification."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from exportkit.errors import Problem


@dataclass(frozen=True)
class Finding:
    """One line of a verification.

    Attributes:
        passed: whether the check passed; None for a note: it could not be checked, or is allowed and worth knowing.
        what: what was checked.
        why: what was found.
        do: what the user can do; may be empty.
    """

    passed: bool | None
    what: str
    why: str
    do: str = ""

    def __str__(self) -> str:
        mark = {True: "v", False: "x", None: "-"}[self.passed]
        return f"[{mark}] {self.what}: {self.why}" + (f"; {self.do}" if self.do else "")


def failures(what: str, problems: Iterable[Problem]) -> Iterator[Finding]:
    """Yield problems as failed findings of `what`; the text names a problem's place if that is not `what` itself."""
    for problem in problems:
        yield Finding(False, what, problem.what if problem.where == what else f"{problem.where}: {problem.what}", problem.do)
