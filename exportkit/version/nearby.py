"""What a path that holds no version may have been meant to be."""

import os
from itertools import islice
from pathlib import Path

from exportkit import files
from exportkit.errors import some
from exportkit.version.claim import numbers

_MOST = 200  # entries of a directory that are looked at


def meant(path: Path) -> str:
    """Return what to write instead of a path without versions: the name beside it that is spelt nearly the same, or the base
    paths in it; empty where there is neither."""
    if not os.path.lexists(path):
        return files.similar(path)
    try:
        with os.scandir(path) as entries:
            directories = sorted(entry.name for entry in islice(entries, _MOST) if entry.is_dir())
        models = [name for name in directories if numbers(path / name)]
    except OSError:
        return ""
    return f"name one of the models in it: {some([str(path / name) for name in models], 3)}" if models else ""
