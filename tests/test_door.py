"""`exportkit.plugin`, the door: what it offers, and that what plugins use does not lie elsewhere."""

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import exportkit.plugin as door
from exportkit import hookspecs
from exportkit.lazy import homes

ROOT = Path(__file__).parents[1]
PLUGINS = ROOT / "plugins"
FILES = sorted(path for path in PLUGINS.glob("exportkit-*/**/*.py") if "build" not in path.parts)
# what tests import besides; exportkit.examples is user code, which shipped configs name
IN_TESTS = re.compile(r"exportkit|exportkit\.(plugin|testing|examples)(\..*)?")


def imports(tree):
    """The modules of exportkit that a tree imports, wherever; of ``from exportkit import x`` x counts where it is a module."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = (
                [a.name for a in node.names if importlib.util.find_spec(f"exportkit.{a.name}")]
                if node.module == "exportkit"
                else []
            )
            names = [node.module, *(f"exportkit.{name}" for name in modules)]
        yield from (name for name in names if name.split(".")[0] == "exportkit")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PLUGINS)))
def test_shipped_plugins_come_in_by_the_door(path):
    found = set(imports(ast.parse(path.read_text())))
    if "tests" in path.parts:
        assert {name for name in found if not IN_TESTS.fullmatch(name)} == set()
    else:
        assert found <= {"exportkit.plugin"}


def test_every_plugin_was_looked_at():
    assert {path.relative_to(PLUGINS).parts[0] for path in FILES} == {path.name for path in PLUGINS.glob("exportkit-*")}


def test_the_guide_and_the_docs_import_from_the_door():
    blocks = re.findall(r"^```python\n(.*?)^```$", (PLUGINS / "README.md").read_text(), re.M | re.S)
    hooks = filter(inspect.isfunction, vars(hookspecs).values())
    examples = [inspect.getdoc(hook).partition("Example:\n")[2] for hook in hooks]
    named = {name for text in [*blocks, *map(textwrap.dedent, examples)] for name in imports(ast.parse(text))}
    assert named == {"exportkit.plugin", "exportkit.testing"}


def test_each_name_is_there_and_documented():
    undocumented = [
        name for name in door.__all__ if not inspect.getdoc(getattr(door, name)) and name not in ("Seconds", "hookimpl")
    ]
    assert undocumented == []
    listed = set(re.findall(r"`(\w+)`", door.__doc__))
    assert set(door.__all__) - {"signatures_of"} <= listed


def test_types_are_checked_of_the_names_that_there_are():
    """The imports for type checkers, and what is imported at run time, are the same."""
    block = next(node for node in ast.parse(inspect.getsource(door)).body if isinstance(node, ast.If))
    typed = {a.asname or a.name: (node.module.removeprefix("exportkit."), a.name) for node in block.body for a in node.names}
    assert typed == homes(door._NAMES)
    assert sorted(typed) == sorted(door.__all__)


def test_nothing_is_imported_before_it_is_used():
    code = "import sys, exportkit.plugin as door; from exportkit.plugin import StepFailed, call_apart, compare, rest_request"
    heavy = "sorted({m.split('.')[0] for m in sys.modules} & {'hydra', 'omegaconf'}), 'tensorflow.python' in sys.modules"
    done = subprocess.run([sys.executable, "-c", f"{code}; print({heavy})"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "([], False)\n".replace("(", "").replace(")", "").replace(",", "")), done
