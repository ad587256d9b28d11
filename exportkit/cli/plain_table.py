"""A table as text for a file or a pipe, as rich prints it there, without rich: its import takes longer than many a command."""

import os
from collections.abc import Sequence
from unicodedata import category, east_asian_width

_STYLES = ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE")  # what has rich do otherwise
_GAP = "   "


def is_plain(width: int, *texts: str) -> bool:
    """Return whether rich would print texts as they are: each on one line of at most `width` characters, all of one cell."""
    if any(name in os.environ for name in _STYLES):
        return False
    return all(len(text) <= width and (text.isascii() or all(map(_is_narrow, text))) and text.isprintable() for text in texts)


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str] | None:
    """Return the lines of a table under its title; None where rich has to lay it out.

    Args:
        title: printed above it.
        columns: the heads of the columns.
        rows: a text per column.
        width: the characters that a line may have.
    """
    lines = [list(columns), *map(list, rows)]
    if not rows or not title.strip() or not is_plain(width, title, *(cell for line in lines for cell in line)):
        return None
    sizes = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    whole = sum(sizes) + len(_GAP) * (len(sizes) - 1)
    if whole > width or len(title) > whole:  # rich wraps the title to the table
        return None
    head, *body = (_GAP.join(cell.ljust(size) for cell, size in zip(line, sizes, strict=True)).rstrip() for line in lines)
    return [title.rstrip(), head, "─" * whole, *body]


def _is_narrow(character: str) -> bool:
    return east_asian_width(character) not in "WF" and category(character)[0] not in "MC"
