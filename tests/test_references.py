"""References to the user's code: what is told of them without importing it, and what importing it says."""

import importlib
import sys
import zipfile

import pytest

from exportkit.config.references import constructor, examine, method, resolve, users_file
from exportkit.errors import ConfigError

MODEL = '''
"""A model."""
import os.path
from json import loads as parse

raise_at_import = 1 / 0  # whoever imports this module notices

if os.path:
    def chosen(a): ...
else:
    chosen = None

try:
    from nowhere import optional
except ImportError:
    def optional(b): ...

with open(os.devnull):
    def inside(c): ...

LIMIT = 3
made, also_made = map(len, ("a", "b"))

def plain(num_inputs, num_neurons=(8, 8), *, seed, rate=0.5): ...

def free(first, **others): ...

def bare(): ...

@staticmethod
def decorated(a): ...

class Encoder:
    """No constructor."""
    alias = plain

    def build_graph_from_config(self, config, checkpoint_path=None): ...

    @staticmethod
    def static(config): ...

    @parse
    def wrapped(self): ...

class Child(Encoder):
    def __init__(self, size, depth=1): ...

class Heir(Encoder): ...

@parse
class Record: ...
'''


@pytest.fixture(autouse=True)
def code(tmp_path, monkeypatch):
    """``models/deep/net.py`` on the path; importing any of it raises."""
    (tmp_path / "models/deep").mkdir(parents=True)
    (tmp_path / "models/__init__.py").write_text("1 / 0")
    (tmp_path / "models/deep/__init__.py").write_text("1 / 0")
    (tmp_path / "models/deep/net.py").write_text(MODEL)
    (tmp_path / "spaces").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    assert not {"models", "models.deep", "models.deep.net"} & set(sys.modules)


def refusal(function, *args):
    with pytest.raises(ConfigError) as caught:
        function(*args)
    return str(caught.value)


def net(name):
    return examine(f"models.deep.net:{name}", "builder")


@pytest.mark.parametrize(
    ("name", "parameters", "required", "variadic"),
    [
        ("plain", ("num_inputs", "num_neurons", "seed", "rate"), ("num_inputs", "seed"), False),
        ("free", ("first",), ("first",), True),
        ("bare", (), (), False),
        ("optional", ("b",), ("b",), False),
        ("inside", ("c",), ("c",), False),
        ("decorated", (), (), True),
        ("parse", (), (), True),
        ("also_made", (), (), True),
    ],
)
def test_tells_parameters_without_importing(name, parameters, required, variadic, code):
    found = net(name)
    assert found.file == str(code / "models/deep/net.py")
    assert (found.parameters, found.required, found.variadic) == (parameters, required, variadic)


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("models.deep.net", "'models.deep.net' is not a reference; write models.deep:net"),
        ("net", "'net' is not a reference; write package.module:name"),
        ("models/deep/net.py:plain", "'models/deep/net.py:plain' is not a reference; write package.module:name"),
        ("models.deep.net:Encoder.static", "'models.deep.net:Encoder.static' is not a reference; write package.module:name"),
        ("", "'' is not a reference; write package.module:name"),
        ("models.deep.net:plan", "there is no 'plan' in {}/models/deep/net.py; did you mean plain?"),
        ("models.deep.nett:plain", "there is no module 'models.deep.nett'; did you mean net?"),
        ("models.dep.net:plain", "there is no module 'models.dep'; did you mean deep?"),
        ("qqqq.net:plain", "there is no module 'qqqq'; is it installed, or in the working directory?"),
        ("models.deep.net.inner:plain", "'models.deep.net' is a module, not a package; write models.deep.net:name"),
        ("models.deep.net:os", "'os' in {}/models/deep/net.py is an imported module and cannot be called; {known}"),
        ("models.deep.net:LIMIT", "'LIMIT' in {}/models/deep/net.py cannot be called; {known}"),
    ],
)
def test_a_wrong_reference_is_told_with_the_nearest_name(reference, text, code):
    known = "choose another name"
    assert refusal(examine, reference, "builder") == "builder: " + text.format(code, known=known)


def test_known_names_are_the_modules_own_and_public(code):
    (code / "small.py").write_text("import os\nfrom pathlib import Path\nLIMIT = 3\ndef build(): ...\ndef _size(): ...\n")
    (code / "made.py").write_text("import os\n_cache = {}\nmake = os.path.join\n")
    assert refusal(examine, "small:zzz", "builder") == f"builder: there is no 'zzz' in {code}/small.py; known: build"
    assert refusal(examine, "small:_zzz", "builder") == f"builder: there is no '_zzz' in {code}/small.py; known: _size, build"
    assert refusal(examine, "made:zzz", "builder") == f"builder: there is no 'zzz' in {code}/made.py; known: make"


def test_a_module_that_does_not_parse(code):
    (code / "broken.py").write_text("x = 1\ndef build(:\n")
    (code / "binary.py").write_bytes(b"x = 1\0")
    assert refusal(examine, "broken:build", "builder") == f"builder: {code}/broken.py:2: invalid syntax; fix the module"
    assert refusal(examine, "binary:build", "builder").startswith(f"builder: {code}/binary.py")


@pytest.mark.parametrize("text", ["from models import *", "def __getattr__(name): ..."])
def test_a_name_made_at_run_time_is_left_to_resolve(text, code):
    (code / "dynamic.py").write_text(text)
    assert examine("dynamic:anything", "builder").problems({"a": 1}, "params") == []


def test_modules_without_a_source_file_are_left_to_resolve(code):
    with zipfile.ZipFile(code / "packed.zip", "w") as archive:
        archive.writestr("packed_model.py", "def build(): ...")
    sys.path.insert(0, str(code / "packed.zip"))
    try:
        found = [examine(name, "builder") for name in ("packed_model:build", "math:sqrt", "spaces:x", "sys:exit")]
    finally:
        sys.path.remove(str(code / "packed.zip"))
    assert [f.problems({"a": 1}, "params") for f in found] == [[], [], [], []]


def test_a_module_that_is_loaded_but_on_no_path_counts(monkeypatch):
    monkeypatch.setitem(sys.modules, "typed_in", type(sys)("typed_in"))
    assert examine("typed_in:build", "builder").problems({"a": 1}, "params") == []


@pytest.mark.parametrize(
    ("name", "given", "texts"),
    [
        ("plain", {"num_inputs", "seed"}, []),
        ("plain", {"num_inputs"}, ["params.seed: has no default and is not given; set it"]),
        ("plain", {"num_input", "seed"}, ["params.num_input: is not a parameter; did you mean num_inputs?"]),
        (
            "plain",
            {"zzz"},
            [
                "params.zzz: is not a parameter; known: num_inputs, num_neurons, rate, seed",
                "params.num_inputs: has no default and is not given; set it",
                "params.seed: has no default and is not given; set it",
            ],
        ),
        ("bare", {"a"}, ["params.a: is not a parameter; it takes none"]),
        ("free", {"first", "anything"}, []),
        ("free", {"anything"}, ["params.first: has no default and is not given; set it"]),
        ("decorated", {"anything"}, []),
    ],
)
def test_keyword_arguments_are_compared(name, given, texts):
    assert [str(p) for p in net(name).problems(given, "params")] == texts


@pytest.mark.parametrize(
    ("name", "given", "texts"),
    [
        ("Child", {"size"}, []),
        (
            "Child",
            {"sise"},
            ["args.sise: is not a parameter; did you mean size?"],
        ),
        ("Encoder", {"size"}, ["args.size: is not a parameter; it takes none"]),
        ("Heir", {"anything"}, []),
        ("Record", {"anything"}, []),
        ("plain", {"num_inputs"}, ["args.seed: has no default and is not given; set it"]),
    ],
)
def test_constructors_are_compared(name, given, texts):
    assert [str(p) for p in constructor(net(name)).problems(given, "args")] == texts


@pytest.mark.parametrize(
    ("cls", "name", "parameters"),
    [
        ("Encoder", "build_graph_from_config", ("config", "checkpoint_path")),
        ("Encoder", "static", ("config",)),
        ("Encoder", "wrapped", ()),
        ("Encoder", "alias", ()),
        ("Child", "inherited", ()),
        ("plain", "anything", ()),
    ],
)
def test_methods_are_found(cls, name, parameters):
    assert method(net(cls), name, "method").parameters == parameters


def test_a_misspelt_method():
    assert refusal(method, net("Encoder"), "build_graph_from_confg", "method") == (
        "method: class Encoder has no method 'build_graph_from_confg'; did you mean build_graph_from_config?"
    )


def test_resolve_imports(code):
    (code / "good_model.py").write_text("def build(): return 7")
    assert resolve("good_model:build", "source.builder")() == 7


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n1 / 0", "importing 'bad_model:build' raised ZeroDivisionError: division by zero ({}:2)"),
        (
            "import nowhere_at_all",
            "importing 'bad_model:build' raised ModuleNotFoundError: No module named 'nowhere_at_all' ({0}:1); "
            "install nowhere_at_all, or move its import at {0}:1 into the function that needs it",
        ),
        (
            "import tensorflow.contrib.slim as slim",
            "importing 'bad_model:build' raised ModuleNotFoundError: No module named 'tensorflow.contrib' ({}:1); "
            "TensorFlow 2 has no tf.contrib: pip install tf_slim for contrib.layers, slim and framework; contrib.rnn is "
            "tf.compat.v1.nn.rnn_cell; contrib.training.HParams can be a class of your own",
        ),
        ("import sys\nsys.exit(3)", "importing 'bad_model:build' raised SystemExit: 3 ({}:2)"),
        ("raise ValueError('one\\ntwo')", "importing 'bad_model:build' raised ValueError: one two ({}:1)"),
        ("", "importing 'bad_model:build' raised AttributeError: module 'bad_model' has no attribute 'build'"),
    ],
)
def test_a_failing_import_is_one_line(text, told, code, monkeypatch):
    (code / "bad_model.py").write_text(text)
    importlib.invalidate_caches()
    assert refusal(resolve, "bad_model:build", "source.builder") == "source.builder: " + told.format(code / "bad_model.py")
    monkeypatch.delitem(sys.modules, "bad_model", raising=False)


def test_what_an_environment_below_has_installed_is_not_the_user_s(tmp_path, monkeypatch):
    site = tmp_path / "below" / "site-packages"
    site.mkdir(parents=True)
    (site / "installed_there.py").write_text("")
    monkeypatch.syspath_prepend(site)
    assert users_file("installed_there") is None
