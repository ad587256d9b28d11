"""Names of a model as identifiers of a programming language."""

import re
from collections.abc import Collection, Iterable


def identifiers(names: Iterable[str], reserved: Collection[str] = ()) -> dict[str, str]:
    """Return an identifier for each name: ASCII letters, digits and _, none twice and none of `reserved`.

    A character that no identifier can have becomes _; a name that clashes gets _ and a number at its end.
    """
    taken, found = set(reserved), {}
    for name in names:
        base = re.sub(r"[^A-Za-z0-9_]", "_", name)
        base = base if re.match("[A-Za-z]", base) else f"x{base}" if base.startswith("_") else f"x_{base}"
        candidates = [base, *(f"{base}_{number}" for number in range(2, len(taken) + 3))]
        found[name] = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(found[name])
    return found


def camel_case(identifier: str) -> str:
    """Return ``predict_images`` as ``PredictImages``."""
    return "".join(word[:1].upper() + word[1:] for word in identifier.split("_"))


def shape_text(shape: tuple[int | None, ...] | None) -> str:
    """Return a shape for a comment: ``[?, 64]``."""
    return "of any rank" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
