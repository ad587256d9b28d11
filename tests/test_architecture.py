"""Which room may import what: the rule that keeps the data going one way and TensorFlow out of everything but one room."""

import ast
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "exportkit"


@dataclass
class Imports:
    """What a room imports: rooms and third parties, at module level and inside functions (or for type checkers)."""

    rooms: set[str] = field(default_factory=set)
    parties: set[str] = field(default_factory=set)
    late_rooms: set[str] = field(default_factory=set)
    late_parties: set[str] = field(default_factory=set)


def may(rooms="", parties="", late="", late_parties=""):
    return Imports(*(set(text.split()) for text in (rooms, parties, late, late_parties)))


DOOR = "bundle capturing errors metagraph native plugin proof protos references runtime sources spec"
EVIDENCE = "identity manifest prediction_log samples served signing tensorproto warmup"

# room (or package) → rooms and third parties that it may import, then those that it may import inside functions only
TABLE = {
    "__init__": may("pipeline plan registry report spec"),
    "__main__": may("cli"),
    "errors": may(),
    "spec": may(),
    "report": may(),
    "fields": may("errors"),
    "references": may("errors"),
    "versions": may("errors"),
    "lastwords": may(),
    "processes": may("lastwords"),
    "runtime": may("errors"),
    "protos": may("errors"),
    "sstable": may("", "google_crc32c"),
    "tensorbytes": may("errors sstable", "google_crc32c numpy", late_parties="ml_dtypes"),
    "checkpoints": may("errors sstable", "google"),
    "bundle_reader": may("checkpoints errors protos sstable tensorbytes", "numpy"),
    "bundle": may("bundle_reader checkpoints errors protos sstable tensorbytes", "numpy"),
    "metagraph": may("errors protos", "google"),
    "native_worker": may("", "ml_dtypes numpy"),
    "workers": may(),
    "native": may("errors lastwords metagraph native_worker protos workers", "numpy"),
    "binding": may("errors spec"),
    "rules": may("binding errors spec"),
    "leaves": may("binding errors fields protos spec"),
    "weights": may("bundle errors metagraph spec"),
    "serving": may("binding bundle errors metagraph rules spec weights"),
    "plugin": may("errors spec", "pluggy", late="capturing protos report serving", late_parties="tensorflow"),
    "samples": may("binding errors metagraph plugin protos spec sstable tensorbytes tensorproto", "google google_crc32c numpy"),
    "proof": may(
        "binding errors metagraph native plugin protos samples served serving spec tensorbytes workers",
        "numpy",
        late_parties="tensorflow",
    ),
    "building": may("checkpoints errors metagraph plugin protos registry"),
    "stepping": may("errors plugin registry report watching"),
    "watching": may(),
    "hookspecs": may("errors plugin report serving spec", "pluggy"),
    "registry": may("errors fields hookspecs plugin", "pluggy"),
    "capturing": may("bundle errors metagraph plugin weights", "numpy", late="protos", late_parties="tensorflow"),
    "plan": may(
        "binding building bundle errors fields leaves metagraph plugin registry rules serving spec versions weights",
        "omegaconf",
    ),
    "savedmodel": may("binding rules bundle errors metagraph plugin protos runtime serving spec weights", "numpy tensorflow"),
    "pipeline": may(
        "building bundle errors metagraph plan plugin published registry report runtime serving spec stepping versions",
        late="savedmodel",
        late_parties="tensorflow",
    ),
    "identity": may("bundle plugin references spec"),
    "manifest": may("errors identity"),
    "published": may("errors manifest versions"),
    "prediction_log": may("tensorbytes tensorproto", "google numpy"),
    "served": may("errors native samples tensorproto", "numpy", late="plugin protos"),
    "signing": may("errors", late_parties="model_signing"),
    "tensorproto": may("protos tensorbytes", "google numpy"),
    "warmup": may("errors native prediction_log samples spec sstable", "google_crc32c"),
    "evidence": may(
        "binding bundle errors fields manifest metagraph native protos rules samples signing spec tensorproto warmup weights",
        "numpy",
    ),
    "sources": may(DOOR, late_parties="tensorflow"),
    "steps": may(f"{DOOR} {EVIDENCE}", "numpy", late="proof", late_parties="matplotlib tensorflow"),
    "testing": may("__init__ bundle cli errors metagraph plan plugin registry report runtime", "numpy pytest tensorflow yaml"),
    "examples": may("", "numpy tensorflow", late_parties="sklearn"),
}
ALL = {"cli", "launcher"}  # the rooms that know Hydra may import everything


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room(path):
    """A module's room: its name, or that of its package below exportkit."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported(path):
    """The modules that a file imports, as (name, whether only inside functions or for type checkers)."""

    def visit(node, late):
        for child in ast.iter_child_nodes(node):
            inner = late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_typing(child)
            if isinstance(child, ast.Import):
                yield from ((alias.name, late) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path} imports relatively"
                whole = [f"{child.module}.{a.name}" for a in child.names] if child.module == "exportkit" else [child.module]
                yield from ((name, late) for name in whole)
            yield from visit(child, inner)

    def is_typing(node):
        return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"

    yield from visit(ast.parse(path.read_text()), False)


def imports_of(name):
    found = Imports()
    for path in modules():
        if room(path) != name:
            continue
        for module, late in imported(path):
            top, _, rest = module.partition(".")
            if top == "exportkit":
                (found.late_rooms if late else found.rooms).add(rest.split(".")[0] or "__init__")
            elif top not in sys.stdlib_module_names:
                (found.late_parties if late else found.parties).add(top)
    return found


ROOMS = sorted({room(path) for path in modules()})


def test_every_room_has_its_rule():
    assert set(ROOMS) <= set(TABLE) | ALL


@pytest.mark.parametrize("name", [name for name in ROOMS if name not in ALL])
def test_a_room_imports_what_it_may(name):
    found, rule = imports_of(name), TABLE[name]
    own = {name}
    assert found.rooms - own <= rule.rooms
    assert found.parties <= rule.parties
    assert found.late_rooms - own <= rule.late_rooms | rule.rooms
    assert found.late_parties <= rule.late_parties | rule.parties


@pytest.mark.parametrize("name", [name for name in ROOMS if name not in ALL])
def test_a_rule_allows_no_more_than_is_used(name):
    """But for the door of plugins, which stands open."""
    found, rule = imports_of(name), TABLE[name]
    if name in ("sources", "steps", "examples"):
        return
    assert rule.rooms - {name} <= found.rooms | found.late_rooms
    assert rule.parties <= found.parties | found.late_parties


def using(*tops):
    """The rooms that import any of these third parties anywhere."""
    return {name for name in ROOMS if {*imports_of(name).parties, *imports_of(name).late_parties} & set(tops)}


def test_hydra_is_known_to_the_command_line_and_the_launcher_only():
    assert using("hydra") <= {"cli", "launcher"}


def test_omegaconf_ends_at_the_plan():
    assert using("omegaconf") <= {"plan", "cli", "launcher"}


def test_tensorflow_is_imported_at_module_level_by_one_room():
    assert {name for name in ROOMS if "tensorflow" in imports_of(name).parties} <= {"savedmodel", "examples", "testing"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_no_module_does(path):
    called = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    assert not {name for name in called if name.endswith(("disable_v2_behavior", "disable_eager_execution"))}
    assert room(path) in ("cli", "examples", "launcher") or "print" not in called


def test_no_plugin_manager_is_global():
    for path in modules():
        top = [node for node in ast.parse(path.read_text()).body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        assert "PluginManager(" not in "".join(map(ast.unparse, top)), path


def test_every_directory_of_configs_is_packaged():
    """setuptools has to be told each of them; but for the examples, which would turn up among a user's models."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    holding = {path.parent.relative_to(ROOT / "conf").parts for path in (ROOT / "conf").rglob("*.yaml")} - {("model",)}
    wanted = {".".join(("exportkit.conf", *parts[:depth])) for parts in holding for depth in range(len(parts) + 1)}
    assert {name for name in project["packages"] if name.startswith("exportkit.conf")} == wanted | {"exportkit.conf"}
    assert project["package-dir"]["exportkit.conf"] == "conf"


def test_every_package_is_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    places = {place: name for name, place in project["package-dir"].items()}
    directories = [path.parent.relative_to(ROOT) for path in PACKAGE.rglob("__init__.py")]
    present = {places.get(str(directory), ".".join(directory.parts)) for directory in directories}
    assert present == {name for name in project["packages"] if not name.startswith("exportkit.conf")}
