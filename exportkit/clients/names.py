"""Names of a model as identifiers of a programming language."""

import re
from collections.abc import Callable, Collection, Iterable


def identifiers(names: Iterable[str], reserved: Collection[str] = ()) -> dict[str, str]:
    """Return an identifier for each name: ASCII letters, digits and _, none twice and none of `reserved`.

    A character that no identifier can have becomes _; a name that clashes gets _ at its end, or _ and a number.
    """
    return _distinct(names, _identifier, reserved)


def class_names(names: Iterable[str], reserved: Collection[str] = ()) -> dict[str, str]:
    """Do as `identifiers`, with ``PredictImages`` for ``predict_images``."""
    return _distinct(names, lambda name: "".join(map(_capital, _identifier(name).split("_"))), reserved)


def _distinct(names: Iterable[str], convert: Callable[[str], str], reserved: Collection[str]) -> dict[str, str]:
    taken, found = set(reserved), {}
    for name in names:
        base = convert(name)
        candidates = [base, f"{base}_", *(f"{base}_{number}" for number in range(2, len(taken) + 3))]
        found[name] = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(found[name])
    return found


def _identifier(name: str) -> str:
    text = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return text if re.match("[A-Za-z]", text) else f"x{text}" if text.startswith("_") else f"x_{text}"


def _capital(word: str) -> str:
    return word[:1].upper() + word[1:]


def shape_text(shape: tuple[int | None, ...] | None) -> str:
    """Return a shape for a comment: ``[?, 64]``."""
    return "of any rank" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def file_name(model: str) -> str:
    """Return a model's name as the first part of a file's name, in lower case."""
    return identifiers([model])[model].lower()
