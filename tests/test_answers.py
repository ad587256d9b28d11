"""What the commands that only answer import, and that what they do without gives the same answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toys
import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from exportkit.checkpoint import encoding, npy
from exportkit.cli import choices
from exportkit.cli.yaml_loader import fast_yaml
from exportkit.protos import DTYPE_NAMES

PROGRAM = """
import atexit, json, os, sys
heavy = json.loads(os.environ["HEAVY"])
atexit.register(lambda: print(json.dumps(sorted(set(heavy) & set(sys.modules))), file=open(os.environ["FOUND"], "w")))
from exportkit.cli import main
sys.exit(main(sys.argv[1:]))
"""
HEAVY = [
    *("tensorflow", "tensorflow.python", "numpy", "ml_dtypes", "hydra", "omegaconf", "yaml", "rich", "pluggy"),
    *("google.protobuf", "exportkit.exporting.pipeline", "exportkit.serving.native", "multiprocessing.forkserver"),
]
CORE = {"hydra", "omegaconf", "yaml", "pluggy"}
ANSWERS = {  # name → arguments, exit code, those of HEAVY that it imports
    "version": (["--version"], 0, set()),
    "plugins": (["plugins"], 0, {"pluggy"}),
    "inspect": (["inspect", "toy/run"], 0, {"pluggy", "yaml", "google.protobuf"}),
    "plan": (["plan", "model=toy"], 0, {"pluggy", "yaml", "google.protobuf", "rich"}),
    "plan by Hydra": (["plan", "model=toy", "++version=3"], 0, {*CORE, "google.protobuf", "rich"}),
    "a wrong option": (["model=toi"], 2, {"pluggy", "yaml"}),
    "a wrong key": (["plan", "model=toy", "post.verify.atoll=1"], 2, {"pluggy", "yaml"}),
    "a wrong binding": (["plan", "model=toy", "bindings.x=y"], 2, {"pluggy", "yaml", "google.protobuf"}),
    "client": (["client", "--help"], 0, {"pluggy"}),
    "probe": (["probe", "--help"], 0, {"pluggy"}),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A directory with a model, ``model=toy``, whose sample lies in a file."""
    place = tmp_path_factory.mktemp("project")
    (place / "toy").mkdir()
    prefix = Path(toys.saved(place / "toy", toys.dense))
    np.save(place / "x.npy", np.zeros((3, 4), np.float32))
    (place / "conf" / "model").mkdir(parents=True)
    (place / "conf" / "model" / "toy.yaml").write_text(f"""\
# @package _global_
defaults: [override /source: meta_graph]
name: toy
source: {{checkpoint: {prefix}}}
bindings: {{x: x, probs: probs}}
signatures: {{serving_default: {{inputs: {{x: x}}, outputs: {{probs: probs}}}}}}
samples: {{serving_default: {{x: x.npy}}}}
""")
    return place


def answered(project, tmp_path, arguments):
    """The exit code of a command, what it printed, and those of `HEAVY` that it imported."""
    environment = {**os.environ, "HEAVY": json.dumps(HEAVY), "FOUND": str(tmp_path / "found.json"), "COLUMNS": "100"}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr, set(json.loads((tmp_path / "found.json").read_text()))


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_imports_what_it_uses(project, tmp_path, name):
    arguments, code, allowed = ANSWERS[name]
    ended, printed, found = answered(project, tmp_path, arguments)
    assert (ended, found - {"rich"}) == (code, allowed - {"rich"}), printed


def of_hydra(groups, place):
    """The options of config groups, listed by Hydra in a process of its own: it keeps registries."""
    program = """
import json, sys
from pathlib import Path
from exportkit.cli import hydra_app
print(json.dumps({group: hydra_app.group_options(group, Path.cwd() / "conf") for group in sys.argv[1:]}))
"""
    done = subprocess.run([sys.executable, "-c", program, *groups], cwd=place, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_help_needs_no_hydra_and_lists_what_hydra_would(project, tmp_path):
    code, printed, found = answered(project, tmp_path, ["--help"])
    assert (code, found & {"hydra", "omegaconf", "numpy", "tensorflow"}) == (0, set())
    listed = of_hydra(choices.GROUPS, project)
    assert {group: choices.listed_options(group, project / "conf") for group in choices.GROUPS} == listed
    assert "toy" in listed["model"] and set(", ".join(listed["model"]).split()) <= set(printed.split())


def test_options_have_the_names_that_hydra_gives_them(tmp_path):
    group = tmp_path / "conf" / "model"
    (group / "folder.yaml").mkdir(parents=True)
    (group / "both").mkdir()
    for name in (
        "a.yaml",
        "b.yml",
        "c.d.yaml",
        "c.d",
        "both.yaml",
        "README.md",
        "plain",
        "plain.yaml",
        "__init__.py",
        ".hidden.yaml",
    ):
        (group / name).write_text("x: 1")
    (group / "gone.yaml").symlink_to("nowhere.yaml")
    user = tmp_path / "conf"
    assert {"model": choices.listed_options("model", user)} == of_hydra(["model"], tmp_path)
    assert {"a", "c.d", "both", "plain"} <= set(choices.listed_options("model", user))


@pytest.mark.parametrize("wrong", ["model=toi", "post.manifest.rows=abc", "versoin=3"])
def test_an_error_of_the_config_starts_nothing_heavy(project, tmp_path, wrong):
    arguments = ["model=toy", wrong] if not wrong.startswith("model") else [wrong]
    code, printed, found = answered(project, tmp_path, arguments)
    assert (code, found & {"tensorflow", "numpy", "ml_dtypes", "rich", "exportkit.exporting.pipeline"}) == (2, set()), printed


@pytest.mark.parametrize(("arguments", "starts"), [(["model=toi"], False), (["model=toy", "versoin=3"], False)])
def test_no_server_is_started_for_a_name_that_is_wrong(project, tmp_path, arguments, starts):
    _, _, found = answered(project, tmp_path, arguments)
    assert ("multiprocessing.forkserver" in found) is starts


DOCUMENTS = [
    *("a: 1e-3\nb: 1.\nc: .5e+3\nd: 1_000\ne: 0123\nf: 0x1f\ng: 12:30\nh: .inf\ni: -.5", "on: yes\nno: off", "a: [null, ~, 8]"),
    *("d: 2024-01-01", "a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}", "a: |\n  text\n   more\nb: >\n  x\n  y\n", "a: ! x", "a: !\n"),
    *(
        "a: '${b}'\nb: ${oc.env:HOME,'x'}",
        "",
        "# only a comment\n",
        "é: ü",
        "\ufeffa: 1",
        "a: 1\r\nb: 2\r\n",
        "a:\t1",
        "- a\n- b",
    ),
]
REFUSED = ["a: 1\na: 2", "a: [1, 2", "a: b: c", "a: {b: 1", "a: 'x", "\ta: 1", "a:\t1", "a: !!python/name:os.system x", "a: @b"]


def loaded(file):
    """What OmegaConf reads from a file, with the types; or the text of its error."""
    try:
        return repr(OmegaConf.to_container(OmegaConf.load(file)))
    except yaml.YAMLError as error:
        return str(error)


@pytest.mark.parametrize("text", DOCUMENTS + REFUSED)
def test_libyaml_reads_what_omegaconf_reads(tmp_path, text):
    (tmp_path / "a.yaml").write_bytes(text.encode())
    expected = loaded(tmp_path / "a.yaml")
    with fast_yaml():
        assert loaded(tmp_path / "a.yaml") == expected
    assert (text in REFUSED) == ("\n  in " in expected or "found " in expected or "could not" in expected)


def test_every_config_file_of_the_project_is_read_alike():
    root = Path(__file__).parents[1]
    files = [*root.glob("conf/**/*.yaml"), *root.glob("[a-z]*/**/conf/**/*.yaml")]
    assert len(files) > 15
    for file in files:
        expected = loaded(file)
        with fast_yaml():
            assert loaded(file) == expected, file


def test_omegaconfs_own_loader_is_back_afterwards():
    from omegaconf import _utils

    with fast_yaml():
        assert _utils.get_yaml_loader is not get_yaml_loader
    assert _utils.get_yaml_loader is get_yaml_loader


def test_sizes_of_elements_are_numpys():
    sized = [name for name in DTYPE_NAMES if name not in ("string", "resource", "variant")]
    assert len(sized) > 20
    for name in sized:
        assert encoding.item_size(name) == encoding.numpy_dtype(name).itemsize, name
    with pytest.raises(ValueError, match="NumPy has no dtype variant"):
        encoding.item_size("variant")


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "uint32", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 4)])
def test_a_plain_header_is_the_one_that_numpy_reads(tmp_path, dtype, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, dtype))
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(shape, dtype))
    assert npy.plain_header(tmp_path / "a.npy", None) == (dtype, shape)
    assert npy.plain_header(tmp_path / "a.npz", "a") == (dtype, shape)
    assert npy.header(tmp_path / "a.npy", None) == (np.dtype(dtype), shape)
    assert npy.plain_header(tmp_path / "a.npz", "b") is None


def damaged(data):
    yield "cut", data[:-1]
    yield "other version", data.replace(b"NUMPY\x01", b"NUMPY\x02")
    yield "another length", data[:8] + b"\x75" + data[9:]
    yield "big endian", data.replace(b"'<f4'", b"'>f4'")
    yield "objects", data.replace(b"'<f4'", b"'|O8'")
    yield "too many values", data.replace(b"(3,), }", b"(9,), }")
    yield "more than its dictionary", data.replace(b", }  ", b", 1: 2}")
    yield "empty", b""


def test_any_other_header_is_left_to_numpy(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3, np.float32))
    whole = (tmp_path / "a.npy").read_bytes()
    for name, data in damaged(whole):
        assert data != whole, name
        (tmp_path / "b.npy").write_bytes(data)
        assert npy.plain_header(tmp_path / "b.npy", None) is None, name
    assert npy.plain_header(tmp_path / "none.npy", None) is None
