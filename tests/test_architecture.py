"""Which room may import what: the rule that keeps the data going one way and TensorFlow out of everything but one room."""

import ast
import re
import sys
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "exportkit"


@dataclass
class Imports:
    """What a room imports at run time: rooms and third parties, at module level and inside functions."""

    rooms: set[str] = field(default_factory=set)
    parties: set[str] = field(default_factory=set)
    late_rooms: set[str] = field(default_factory=set)
    late_parties: set[str] = field(default_factory=set)


def mapped():
    """The rooms of ARCHITECTURE.md, from top to bottom."""
    section = (ROOT / "ARCHITECTURE.md").read_text().split("## Rooms")[1].split("\n## ")[0]
    return [name.removesuffix(".py").removesuffix("/") for name in re.findall(r"^\| `([a-z_.]+/?)` \|", section, re.M)]


# room → third parties that it may import, then those that it may import inside functions only
PARTIES = {
    "capabilities": ("google", ""),
    "capture": ("numpy", "tensorflow"),
    "clients": ("google grpc numpy", "ml_dtypes"),
    "config": ("annotated_types", ""),
    "core": ("ml_dtypes numpy", ""),
    "checkpoint": ("google google_crc32c numpy", "ml_dtypes"),
    "deployment": ("google yaml", ""),
    "examples": ("numpy tensorflow", "sklearn"),
    "exporting": ("google numpy", ""),
    "hookspecs": ("pluggy", ""),
    "metagraph": ("google", ""),
    "protos": ("google", ""),
    "operations": ("", "numpy"),
    "planning": ("omegaconf", ""),
    "contract": ("pluggy", ""),
    "registry": ("pluggy", ""),
    "samples": ("google google_crc32c numpy", ""),
    "server": ("google grpc grpc_health grpc_reflection numpy uvicorn", ""),
    "serving": ("google google_crc32c numpy", ""),
    "sources": ("", "h5py keras tensorflow"),
    "steps": ("annotated_types", "matplotlib numpy"),
    "testing": ("numpy pytest tensorflow yaml", ""),
    "verifying": ("ml_dtypes numpy", "PIL simplejpeg"),
    "version": ("", "model_signing"),
}
ALL = {"cli", "launcher"}  # the rooms that know Hydra may import every third party


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room(path):
    """A module's room: its name, or that of its package below exportkit."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported(path):
    """The modules that a file imports, as (name, whether only inside functions); not those for annotations."""

    def visit(node, late):
        for child in ast.iter_child_nodes(node):
            if is_typing(child):
                continue
            inner = late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.Import):
                yield from ((alias.name, late) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path} imports relatively"
                whole = [f"{child.module}.{a.name}" for a in child.names] if child.module == "exportkit" else [child.module]
                yield from ((name, late) for name in whole)
            yield from visit(child, inner)

    def is_typing(node):
        return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"

    yield from visit(tree(path), False)


@cache
def tree(path):
    """The syntax tree of a module."""
    return ast.parse(path.read_text())


def calls(path):
    """The calls of a module."""
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


def last_name(function):
    """The last name of what is called: ``open`` of ``os.open``."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


@cache
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


def test_the_map_shows_every_room():
    assert sorted(mapped()) == ROOMS
    assert len(set(mapped())) == len(mapped())


def test_paths_in_the_map_exist():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    paths = re.findall(r"`((?:[a-z_]+/)+[a-z_.]*)`", text)
    assert len(paths) > 20
    assert [path for path in paths if not (PACKAGE / path).exists() and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_only_rooms_below_it(name):
    order = mapped()
    below = set(order[order.index(name) + 1 :])
    found = imports_of(name)
    assert (found.rooms | found.late_rooms) - {name} <= below


@pytest.mark.parametrize("name", [name for name in ROOMS if name not in ALL])
def test_a_room_imports_the_third_parties_that_it_may(name):
    found = imports_of(name)
    parties, late = (set(text.split()) for text in PARTIES.get(name, ("", "")))
    assert found.parties <= parties
    assert found.late_parties <= late | parties
    assert parties | late <= found.parties | found.late_parties


def using(*tops):
    """The rooms that import any of these third parties anywhere."""
    return {name for name in ROOMS if {*imports_of(name).parties, *imports_of(name).late_parties} & set(tops)}


def test_hydra_is_known_to_the_command_line_and_the_launcher_only():
    assert using("hydra") <= {"cli", "launcher"}


def test_omegaconf_ends_at_the_plan():
    assert using("omegaconf") <= {"planning", "cli", "launcher"}


def test_tensorflow_is_imported_at_module_level_by_one_room():
    assert {name for name in ROOMS if "tensorflow" in imports_of(name).parties} <= {"examples", "testing"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_no_module_does(path):
    called = [call.func for call in calls(path)]
    assert not {name for name in map(last_name, called) if name.endswith(("disable_v2_behavior", "disable_eager_execution"))}
    prints = any(isinstance(function, ast.Name) and function.id == "print" for function in called)
    assert room(path) in ("cli", "examples", "launcher") or not prints


def test_no_plugin_manager_is_global():
    for path in modules():
        if "PluginManager" not in path.read_text():
            continue
        top = [node for node in tree(path).body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        assert "PluginManager(" not in "".join(map(ast.unparse, top)), path


def test_every_directory_of_configs_is_packaged():
    """setuptools has to know each of them; but for the examples, which would turn up among a user's own and could not run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    holding = {path.parent.relative_to(ROOT / "conf").parts for path in (ROOT / "conf").rglob("*.yaml")}
    holding -= {("model",), ("signature",), ("experiment",)}
    wanted = {".".join(("exportkit.conf", *parts[:depth])) for parts in holding for depth in range(len(parts) + 1)}
    assert {name for name in project["packages"] if re.match(r"exportkit\.conf\b", name)} == wanted | {"exportkit.conf"}
    assert project["package-dir"]["exportkit.conf"] == "conf"


def test_every_package_is_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    places = {place: name for name, place in project["package-dir"].items()}
    directories = [path.parent.relative_to(ROOT) for path in PACKAGE.rglob("__init__.py")]
    present = {places.get(str(directory), ".".join(directory.parts)) for directory in directories}
    assert present == {name for name in project["packages"] if not re.match(r"exportkit\.conf\b", name)}


# modules that open files by themselves: what exportkit writes, its own processes' files and pipes, and its own examples
OPENERS = {
    "files.py": "opens for all others",
    "capabilities/oplist.py": "reads the list of ops, which is exportkit's own",
    "capabilities/update.py": "reads the list of ops, which is exportkit's own",
    "checkpoint/locate.py": "opens what it holds already",
    "checkpoint/data_file.py": "writes",
    "checkpoint/writer.py": "writes",
    "clients/runtime/servers.py": "reads the keys and certificates that its caller names, without exportkit",
    "cli/__init__.py": "opens the standard streams",
    "cli/progress.py": "writes to the terminal",
    "cli/single.py": "reads the log of its own process",
    "cli/tables.py": "opens the null device",
    "checkpoint/readback.py": "reads the file that its writer has just created",
    "core/concurrent_worker.py": "writes its replies",
    "core/warm.py": "reads the names of its threads",
    "core/worker.py": "writes its replies",
    "sources/_keras_worker.py": "writes its reply, and reads what the kernel says of its memory",
    "examples": "know nothing of exportkit",
    "exporting/savedmodel/checks.py": "compares assets, which were found to be files",
    "protos.py": "asks how much memory this process has",
    "planning/assets.py": "compares assets by descriptors of what it found to be files",
    "processes": "opens its own pipes, logs and results",
    "server/page.py": "reads its own page",
    "testing": "reads what tests wrote",
    "verifying/audit/place.py": "opens a directory",
    "version/claim.py": "opens directories and locks",
    "version/manifest.py": "follows no link",
    "version/identity.py": "reads the metadata of distributions and the code of modules",
}


RECEIVERS = ("os", "np", "io", "path", "file", "log")


def openings(path):
    """The lines of a module that open or read a file by other means than `exportkit.files`."""
    for call in calls(path):
        function = call.func
        if isinstance(function, ast.Name) and function.id == "open":
            yield call.lineno
        if isinstance(function, ast.Attribute) and function.attr in ("read_bytes", "read_text", "fdopen", "fromfile", "memmap"):
            yield call.lineno
        if last_name(function) in ("open", "load") and ast.unparse(function).split(".")[0] in RECEIVERS:
            yield call.lineno


def test_files_are_opened_with_a_bound():
    """What is opened elsewhere may be a FIFO, a device, or without end."""
    found = {path.relative_to(PACKAGE).as_posix() for path in modules() if list(openings(path))}
    allowed = {name for name in found if name in OPENERS or name.split("/")[0] in OPENERS}
    assert sorted(found - allowed) == []
    assert [name for name in OPENERS if not any(one == name or one.startswith(f"{name}/") for one in found)] == []
