"""Makes this copy a plugin of your own: ``python rename.py acme``. Removes itself, for it works once."""

import sys
from pathlib import Path

OLD = "template"


def rename(directory: Path, name: str) -> None:
    """Write `name` for `template` in the texts and names of all files."""
    if not name.isidentifier():
        sys.exit(f"{name}: is no name for a plugin; write letters, digits and _")
    (directory / "rename.py").unlink()
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.suffix in (".md", ".py", ".toml", ".yaml"):
            path.write_text(path.read_text().replace(OLD, name))
        path.rename(path.with_name(path.name.replace(OLD, name)))


if __name__ == "__main__":
    rename(Path(__file__).parent, sys.argv[1])
