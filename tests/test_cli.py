"""The command line: what it says, where, and with which exit code. Texts are asserted whole where a user acts on them."""

import copy
import errno
import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

from exportkit import processes, registry
from exportkit.cli import arguments, choices, export_job, hydra_app, main, tables
from exportkit.cli.fielddocs import field_docs
from exportkit.commands import COMMANDS, load
from exportkit.contract import Command
from exportkit.errors import ConfigError, PluginError
from exportkit.plugin import Phase, PostStep, hookimpl
from exportkit.report import ExportReport, MetaGraphReport, SignatureReport, TensorReport

PLAN = import_module("exportkit.planning.plan")  # the package's `plan` is the function

MODEL = """\
# @package _global_
defaults: [override /source: meta_graph]
name: {name}
source: {{checkpoint: toy}}
bindings:
  x: {{tensor: x:0, dtype: float32, shape: [null, 3]}}
  keep_prob: {{constant: 1.0, replaces: keep_prob:0}}
  probs: probs:0
signatures:
  serving_default: {{inputs: {{x: x}}, outputs: {{probs: probs}}}}
"""


@dataclass(kw_only=True)
class Note(PostStep):
    """Leaves a note.

    Nobody reads it.
    """

    kind: str = "note"
    phase = Phase.VERIFY

    text: str = "hello"
    """What the note says."""

    times: int = 1
    tags: list[str] = field(default_factory=list)

    def run(self, export):
        return {"text": self.text}


class NotePlugin:
    @hookimpl
    def exportkit_post_steps(self):
        return [Note]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A trained graph: x [?, 3] → probs [?, 2], with dropout and Adam's slots."""
    import tensorflow as tf

    directory = tmp_path_factory.mktemp("toy") / "toy"
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 3], name="x")
        keep = v1.placeholder(tf.float32, [], name="keep_prob")
        kernel = v1.get_variable("kernel", [3, 2], use_resource=False)
        hidden = v1.nn.dropout(x, keep_prob=keep)
        logits = tf.matmul(hidden, kernel, name="logits")
        tf.nn.softmax(logits, name="probs")
        labels = v1.placeholder(tf.int64, [None], name="labels")
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        v1.train.AdamOptimizer().minimize(loss)
        session.run(v1.global_variables_initializer())
        directory.mkdir()
        v1.train.Saver().save(session, str(directory / "model.ckpt"), global_step=7)
    return directory


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    """The package of configs as a wheel has it: without the examples' models, which a checkout shows."""
    import exportkit.conf

    root = tmp_path_factory.mktemp("packaged")
    shutil.copytree(
        Path(exportkit.conf.__file__).parent,
        root / "packaged_conf",
        ignore=shutil.ignore_patterns("model", "signature", "experiment"),
    )
    sys.path.append(str(root))
    yield "packaged_conf"
    sys.path.remove(str(root))


@pytest.fixture
def here(tmp_path, monkeypatch, toy):
    """A working directory with a trained graph and two models in its ``conf/``."""
    (tmp_path / "toy").symlink_to(toy)
    for name in ("mnist_mlp", "other"):
        write(tmp_path / f"conf/model/{name}.yaml", MODEL.format(name=name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@cache
def with_note():
    """The built-in plugins and `NotePlugin`."""
    return registry.load_plugins({"note": NotePlugin()})


@pytest.fixture(autouse=True)
def hydra_state(monkeypatch, packaged):
    """Hydra configures logging and keeps registries; each test begins with what there was."""
    from hydra.core.plugins import Plugins
    from hydra.core.singleton import Singleton

    plugins = with_note()
    for module in (choices, hydra_app):
        monkeypatch.setattr(module, "plugins", lambda: plugins)
        monkeypatch.setattr(module, "CONF", packaged)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(logging, "_handlerList", [])  # dictConfig closes them all, those of pytest too
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    Plugins.instance()  # looks for Hydra's plugins, once
    singletons = {single: copied_containers(vars(one)) for single, one in Singleton._instances.items()}
    instances, resolvers = dict(Singleton._instances), dict(BaseContainer._resolvers)
    yield
    Singleton._instances, BaseContainer._resolvers = instances, resolvers
    for single, attributes in singletons.items():
        vars(instances[single]).clear()
        vars(instances[single]).update(attributes)
    root.handlers[:], root.level = handlers, level


def copied_containers(value):
    """A copy of nested dicts and lists, and of configs, without a copy of what else they hold: Hydra replaces that."""
    if isinstance(value, dict):
        return copy.copy(value) | {key: copied_containers(held) for key, held in value.items()}
    if isinstance(value, list):
        return [copied_containers(held) for held in value]
    return copy.deepcopy(value) if OmegaConf.is_config(value) else value


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def run(capsys):
    """Run a command line: its exit code, stdout and stderr."""

    def run(*words: str) -> SimpleNamespace:
        capsys.readouterr()
        code = main(words)
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run


# Errors: the words of a command line → exit code 2 and one line

ERRORS = {
    "model=mnist_mpl": "model: there is no 'mnist_mpl'; did you mean mnist_mlp?",
    "modle=mnist_mlp": "modle: no such key; did you mean model?",
    "experiment=big": "experiment: there is no 'big'; write conf/experiment/big.yaml, or name its directory with --config-dir",
    "model.name=x": "model: is a choice of files and has no keys; write model=NAME; begin its files with # @package _global_",
    "model=": "model: names no file; write model=NAME; there are mnist_mlp, other",
    "model=other.yml": "model: there is no 'other.yml'; write model=other",
    "model=short": "model: there is no 'short'; rename conf/model/short.yml to short.yaml",
    "model=flat": "model: there is no 'flat'; move conf/flat.yaml to conf/model/flat.yaml",
    "model=high --config-dir high": "model: there is no 'high'; move high/high.yaml to high/model/high.yaml",
    "model=other --config-dir conf/model": "model: there is no 'other'; name the directory above: --config-dir conf",
    "model=other --config-dir .": "model: there is no 'other'; name the directory that has it: --config-dir conf",
    "model=other method=clasify": "method: no such key; did you mean signatures.serving_default.method?",
    "model=other atol=1": "atol: no such key; did you mean post.verify.atol?",
    "model=other signatures.serving_default.method=clasify": (
        "signatures.serving_default.method: there is no method 'clasify'; did you mean classify?"
    ),
    "model=other signatures.serving_defult.method=predict": (
        "signatures.serving_defult: has only method; did you mean serving_default?"
    ),
    "model=other ~name": "name: is not in the config, and export_dir needs it; set it, or leave out ~name",
    "model=other source.chekpoint=x": "source.chekpoint: no such key; did you mean source.checkpoint?",
    "sourc.checkpoint=x": "sourc: no such key; did you mean source?",
    "source.checkpoint=x": "source.checkpoint: no source is chosen; choose a model=NAME, or a source=KIND",
    "source=meta_grph": "source: there is no 'meta_grph'; did you mean meta_graph?",
    "model=other bindings.y=z": "bindings.y: no such key; to add it, write +bindings.y=VALUE",
    "model=other bindings.prbs=z": (
        "bindings.prbs: no such key; did you mean bindings.probs? to add it, write +bindings.prbs=VALUE"
    ),
    "model=other post.note.text=x": "post.note: the step is not chosen; choose it: post=[note]",
    "model=other post.verfy.atol=1": "post.verfy: no such key; did you mean post.verify?",
    "post=[nte]": "post: there is no 'nte'; did you mean note?",
    "post=[note] post.note.time=2": "post.note.time: no such key; did you mean post.note.times?",
    "post=[note] post.note.times=twice": "post.note.times: is 'twice', not an integer",
    "post=[note] post.note.tags=serve": "post.note.tags: is 'serve', not a list",
    "weights.moving_average=maybe": "weights.moving_average: is 'maybe', not true or false",
    "bindings=3": "bindings: is 3, not a mapping",
    "~post.note": "post.note: cannot be deleted: it is not there",
    "+version=3": "version: is there already; write version=VALUE, without +",
    "version": "version: is neither a flag nor key=value; write key=value; a command comes first",
    "vars=[1": "vars=[1: no viable alternative at input '[1'; quote what is not plain, for the shell too: 'key=\"a: b\"'",
    "vars.a#b=1": "vars.a#b=1: cannot be read from character 7 on; quote what is not plain, for the shell too: 'key=\"a: b\"'",
    "model=mnist_mlp,other": (
        "model: mnist_mlp,other is several values; add -m for a job with each, or write model=[mnist_mlp,other] for a list"
    ),
    "version=range(1,3)": "version: range(1,3) is a sweep; add -m",
    "hydra/launcher=slrum": "hydra/launcher: there is no 'slrum'; did you mean slurm?",
    "--config-name nothing": "nothing.yaml: is in no directory of the search path; exportkit --info searchpath shows them",
    "--config-dir nowhere": "--config-dir: there is no directory nowhere",
    "--confg-dir conf": "--confg-dir: is not a flag; did you mean --config-dir?",
    "--config-dir": "--config-dir: needs a value",
    "--forse": "--forse: is not a flag; did you mean --force?",
    "--cfg jb": "--cfg: cannot be 'jb'; one of job, hydra, all",
    "--resolve": "command line: The --resolve flag can only be used in conjunction with --cfg or --help",
}


@pytest.mark.quick(45)
@pytest.mark.parametrize("words", ERRORS)
@pytest.mark.parametrize("command", ["export", "plan"])
def test_what_hydra_refuses_is_one_line(words, command, run, here):
    for name in ("conf/model/short.yml", "conf/flat.yaml", "high/high.yaml"):
        write(here / name, MODEL.format(name="x"))
    told = run(command, *words.split())
    assert (told.code, told.err) == (2, ERRORS[words] + "\n")


FILES = {
    "bindngs: {a: b}": "bindngs: no such key (conf/model/bad.yaml); did you mean bindings?",
    "weights: {moving_average: maybe}": "weights.moving_average: is 'maybe', not true or false (conf/model/bad.yaml)",
    "defaults: [override /sorce: meta_graph]": "sorce: no such group (conf/model/bad.yaml); did you mean source?",
    "defaults: [override source: meta_graph]": (
        "override source: is looked for below the file's own directory (conf/model/bad.yaml); "
        "write override /source, with a slash"
    ),
    "bindings:\n  off: probs:0": (
        "bindings.off: YAML reads the key off as false (conf/model/bad.yaml:3); put it in quotes: 'off'"
    ),
    "bindings: {no: probs:0}": "bindings.no: YAML reads the key no as false (conf/model/bad.yaml:2); put it in quotes: 'no'",
    "bindings: {a: b, on: c}": "bindings.on: YAML reads the key on as true (conf/model/bad.yaml:2); put it in quotes: 'on'",
    "name: a\n\tversion: 1": "conf/model/bad.yaml:3: is not YAML: found character '\\t' that cannot start any token",
    "name: a\nname: b": "conf/model/bad.yaml:3: is not YAML: found duplicate key name",
}


@pytest.mark.parametrize("text", FILES)
def test_what_is_wrong_in_a_file_names_the_file(text, run, here):
    write(here / "conf/model/bad.yaml", f"# @package _global_\n{text}\n")
    told = run("model=bad")
    assert (told.code, told.err) == (2, FILES[text] + "\n")


CONTENTS = {
    b"": "conf/model/bad.yaml: is empty; begin it with # @package _global_, then write keys: name, source, bindings, …",
    b"# nothing yet\n": (
        "conf/model/bad.yaml: is empty; begin it with # @package _global_, then write keys: name, source, bindings, …"
    ),
    b"- name: a\n": "conf/model/bad.yaml: is a list, not a mapping; write key: value lines, without leading dashes",
    b"name\n": "conf/model/bad.yaml: is a single value, not a mapping; write key: value lines",
    b"# @package _global_\nname: caf\xe9\n": "conf/model/bad.yaml:2: is not UTF-8 (byte 0xe9); save the file as UTF-8",
}


@pytest.mark.parametrize("content", CONTENTS, ids=repr)
def test_a_file_that_is_no_config_is_named(content, run, here):
    (here / "conf/model/bad.yaml").write_bytes(content)
    told = run("model=bad")
    assert (told.code, told.err) == (2, CONTENTS[content] + "\n")


def test_a_key_with_a_default_can_be_set_where_the_file_does_not_have_it(run, here):
    told = run("--cfg", "job", "model=other", "signatures.serving_default.method=predict", "meta_graphs.serving.device=null")
    config = yaml.safe_load(told.out)
    assert config["signatures"]["serving_default"]["method"] == "predict"
    assert config["meta_graphs"]["serving"] == {"tags": ["serve"], "device": None}


def test_a_model_without_its_header_is_told_to_have_one(run, here):
    write(here / "conf/model/bad.yaml", "name: x\n")
    assert run("model=bad").err == (
        "model: is a choice of files and has no keys (conf/model/bad.yaml); "
        "write model=NAME; begin its files with # @package _global_\n"
    )


def test_a_model_without_its_header_cannot_choose_a_source(run, here):
    write(here / "conf/model/bad.yaml", "# bad\n" + MODEL.format(name="bad"))
    assert run("model=bad").err == (
        "override /source: finds no such group here (conf/model/bad.yaml); "
        "make # @package _global_ the first line of the file\n"
    )


def test_a_missing_interpolation_names_its_nearest_key(run, here):
    told = run("model=other", "+vars.sub=eu", "hydra.run.dir=${vars.sbu}")
    assert (told.code, told.err) == (2, "hydra.run.dir: ${vars.sbu} is not in the config; did you mean vars.sub?\n")


def test_a_model_where_there_are_none(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("model=mine").err == (
        "model: there is no 'mine'; write conf/model/mine.yaml, or name its directory with --config-dir\n"
    )


def test_problems_after_composition_come_as_one_list(run, here):
    told = run("plan", "model=other", "bindings.probs=prbs:0", "version=last")
    assert told.code == 2
    first, *problems = told.err.splitlines()
    assert first == f"exportkit: {len(problems)} problems"
    assert len(problems) >= 2


def test_a_sweep_is_composed_before_its_first_job(run, here):
    told = run("-m", "model=other,mnist_mpl")
    assert (told.code, told.err.splitlines()[1:]) == (
        2,
        ["job 1 (model=mnist_mpl): model: there is no 'mnist_mpl'; did you mean mnist_mlp?"],
    )
    assert not (here / "exports").exists()


def test_a_misspelt_command_gets_its_neighbour(run):
    told = run("plna", "model=x")
    assert (told.code, told.err) == (2, "plna: is neither a command nor key=value; did you mean plan?\n")


def test_tracebacks_are_for_those_who_ask(run, here, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ConfigError, match="did you mean mnist_mlp"):
        run("model=mnist_mpl")


def test_a_jobs_traceback_goes_back_to_its_cause(run, here, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ConfigError):
        run("plan", "model=other", "version=x")
    with pytest.raises(hydra_app.JobFailed) as raised:  # of Hydra's
        run("plan", "model=other", "++version=x")
    assert isinstance(raised.value.__cause__, ConfigError)


def test_an_interrupted_run_says_so(run, here, monkeypatch):
    monkeypatch.setattr(PLAN, "plan", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    told = run("plan", "model=other")
    assert (told.code, told.err) == (130, "exportkit: interrupted\n")


def test_a_fault_of_ours_is_one_line_too(run, here, monkeypatch):
    monkeypatch.setattr(PLAN, "plan", lambda *_: 1 / 0)
    told = run("plan", "model=other")
    assert (told.code, told.err) == (
        1,
        "exportkit: ZeroDivisionError: division by zero; "
        "this is a fault in exportkit or in a plugin; HYDRA_FULL_ERROR=1 shows where\n",
    )


def test_what_leaves_a_job_can_be_pickled():
    failed = pickle.loads(pickle.dumps(hydra_app.JobFailed("a: b; c", 2)))
    assert (str(failed), failed.exit_code) == ("a: b; c", 2)


def test_a_job_can_be_handed_to_a_worker():
    assert pickle.loads(pickle.dumps(export_job.job)) is export_job.job


def test_a_directory_that_cannot_be_made_is_the_machines_fault(run, here):
    write(here / ".exportkit", "a file")
    told = run("-m", "model=other", "hydra.sweep.dir=.exportkit/here")
    assert (told.code, told.err.splitlines()[-1]) == (1, f"{here}/.exportkit: File exists")


def test_a_launcher_that_gives_up_leaves_the_records_of_its_jobs(run, here, monkeypatch):
    hydra_app.HydraPlugins.instance()  # imports it once more
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher

    launch = BasicLauncher.launch

    def dying(self, overrides, initial_job_idx):
        launch(self, overrides[:1], initial_job_idx)
        raise RuntimeError("no more workers")

    monkeypatch.setattr(BasicLauncher, "launch", dying)
    told = run("-m", "model=mnist_mlp,other", "hydra/launcher=basic")
    assert told.code == 1
    assert "hydra/launcher: basic gave up: RuntimeError: no more workers; end what still runs there, " in told.err
    assert re.search(r"^0 +mnist_mlp +1 +exported ", told.out, re.MULTILINE)


# Whose configs and whose code


def test_a_users_conf_comes_before_the_packaged_one(run, here):
    write(here / "conf/hydra/output/exportkit.yaml", "# @package hydra\nrun: {dir: mine}\nsweep: {dir: mine, subdir: x}\n")
    assert yaml.safe_load(run("--cfg", "hydra").out)["hydra"]["run"]["dir"] == "mine"


def test_config_dir_names_another_directory_instead(run, here):
    write(here / "elsewhere/model/third.yaml", MODEL.format(name="third"))
    assert yaml.safe_load(run("--cfg", "job", "--config-dir", "elsewhere", "model=third").out)["name"] == "third"
    assert run("--config-dir=elsewhere", "model=other").err == "model: there is no 'other'; did you mean third?\n"


def test_flags_may_follow_overrides(run, here):
    assert yaml.safe_load(run("model=other", "--cfg", "job", "version=3").out)["version"] == 3


def test_another_applications_config_is_refused(run, here):
    write(here / "conf/config.yaml", "defaults: [model: resnet]\n")
    told = run("model=other")
    assert (told.code, told.err) == (
        2,
        "conf/config.yaml: is another application's: its defaults do not list exportkit_schema; "
        "keep exportkit's files in a directory of their own and name it with --config-dir\n",
    )


def test_a_users_own_root_may_take_the_place_of_ours(run, here):
    write(here / "conf/config.yaml", "defaults: [exportkit_schema, source: null, _self_, model: null]\nversion: timestamp\n")
    assert yaml.safe_load(run("--cfg", "job", "model=other").out)["version"] == "timestamp"


def test_the_working_directory_is_on_the_path_of_jobs_and_workers(run, here, monkeypatch):
    seen = {}
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(here))])
    monkeypatch.setenv("PYTHONPATH", "there")

    def plan(config, plugins, directories):
        seen.update(path=sys.path[0], workers=os.environ["PYTHONPATH"])
        raise ConfigError

    monkeypatch.setattr(PLAN, "plan", plan)
    run("plan", "model=other")
    assert seen == {"path": str(here), "workers": f"{here}{os.pathsep}there"}
    assert os.environ["PYTHONPATH"] == "there"
    assert str(here) not in sys.path


def test_the_printed_config_is_plain_yaml(run, here):
    shown = run("model=other", "--cfg", "job").out
    assert yaml.safe_load(shown)["source"] == {"kind": "meta_graph", "checkpoint": "toy", "meta": None}


# Export


def test_an_export_says_what_came_of_it(run, here):
    told = run("model=mnist_mlp", "report.path=out/report.json", "hydra.verbose=true")
    assert told.code == 0, told.err
    assert re.match(r"mnist_mlp: exported version 1 to exports/mnist_mlp/1 in \d+\.\d s\n", told.out)
    assert re.search(r"serving_default +predict +in +x +float32 +\[\?, 3\]", told.out)
    assert re.search(r"variables +1, 24 B", told.out)
    assert "stages" not in told.out
    assert (
        f"tensorflow_model_server --rest_api_port=8501 --model_name=mnist_mlp --model_base_path={here}/exports/mnist_mlp\n"
        in told.out
    )
    assert (
        """curl -d '{"signature_name": "serving_default", "instances": [{"x": [0.0, 0.0, 0.0]}]}' """
        "http://localhost:8501/v1/models/mnist_mlp:predict\n"
    ) in told.out
    stages = re.findall(r"^mnist_mlp: ([a-z ]+) \d+\.\d s$", told.err, re.MULTILINE)
    stages = [stage for stage in stages if stage != "import tensorflow"]  # what binds the graph may need it
    assert stages == ["plan", "start", "build", "bind", "write", "prove", "verify", "manifest", "commit"]
    report = json.loads((here / "out/report.json").read_text())
    assert report["status"] == "exported"
    assert report["stages"]["start"] > 0


def test_where_no_terminal_is_an_export_is_one_line(run, here):
    told = run("model=other", "bindings.probs=logits:0", "post.manifest.rows=1")
    line = r"exported other 1: exports/other/1, 1 variable proved, verify max abs diff 0, \d+\.\d s\n"
    assert re.fullmatch(line, told.out)
    assert {line.split(": ")[:2] == ["other", "warning"] for line in told.err.splitlines()} <= {True}


def test_quiet_prints_problems_only(run, here):
    told = run("model=other", "-q")
    assert (told.code, told.out, told.err) == (0, "", "")
    told = run("model=other", "-q", "version=1")
    text = f"version: 1 exists in {here}/exports/other; a version is never overwritten: write version=auto\n"
    assert (told.code, told.out, told.err) == (2, "", text)


def test_a_quiet_sweep_prints_problems_only(run, here):
    told = run("-m", "model=mnist_mlp,other", "version=auto,x", "--keep-going", "--quiet", "post=[]")
    assert (told.code, told.out) == (1, "")
    assert [line.split(": ")[0] for line in told.err.splitlines()] == ["exportkit", "job 1", "job 3"]
    (record,) = (here / ".exportkit/sweeps").glob("*/*/sweep.json")
    assert record.is_file()


def test_a_config_error_starts_no_process(run, here, monkeypatch):
    monkeypatch.setattr(processes, "run", lambda *_: pytest.fail("a process was started"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_: pytest.fail("a process was started"))
    assert run("model=other", "version=x").code == 2
    told = run("model=other", "hydra.launcher.timeout=0")
    assert (told.code, told.err) == (2, "hydra.launcher.timeout: is 0.0; write a positive number, or null\n")


def test_a_report_says_how_each_meta_graph_is_served(capsys):
    inputs = [TensorReport(alias="x", binding="x", tensor="x:0", dtype="int64", shape=[None])]
    signature = SignatureReport(key="s", method="predict", inputs=inputs, outputs=inputs)
    graphs = [
        MetaGraphReport(key=key, tags=tags, nodes_before=1, nodes_after=1, signatures=signatures)
        for key, tags, signatures in [
            ("train", ["train"], []),
            ("tpu", ["serve", "tpu"], [signature]),
            ("cpu", ["serve"], [signature]),
        ]
    ]
    plan = SimpleNamespace(bindings={}, samples={}, report=None)
    tables.show_report(ExportReport(name="m", base_path="/m", status="exported", version=1, meta_graphs=graphs), plan)
    start = "tensorflow_model_server --rest_api_port=8501 --model_name=m --model_base_path=/m"
    assert capsys.readouterr().out.endswith(
        f"""
Serve it
{start}
{start} --saved_model_tags=serve,tpu  # meta graph tpu in its place

Ask it
curl -d '{{"signature_name": "s", "instances": [{{"x": 0}}]}}' http://localhost:8501/v1/models/m:predict
"""
    )


def test_one_run_leaves_nothing_beside_its_export(run, here):
    before = {*here.iterdir()}
    assert run("model=mnist_mlp").code == 0
    assert {*here.iterdir()} - before == {here / "exports"}


def test_a_failed_export_is_reported_too(run, here):
    told = run("model=mnist_mlp", "version=007x", "report.path=report.json")
    assert told.code == 2
    report = json.loads((here / "report.json").read_text())
    assert (report["status"], report["name"]) == ("failed", "mnist_mlp")
    assert report["error"] + "\n" == told.err


def rows_of(table):
    """The first four cells of each row of a sweep's table."""
    return [re.split(r"  +", line)[:4] for line in table.splitlines() if re.match(r"\d  ", line)]


def test_a_sweep_runs_all_jobs_and_says_what_became_of_each(run, here):
    told = run("-m", "model=mnist_mlp,other", "bindings.probs=prbs:0,probs:0", "--keep-going")
    assert told.code == 1
    assert rows_of(told.out) == [
        ["0", "mnist_mlp", "-", "failed"],
        ["1", "mnist_mlp", "1", "exported"],
        ["2", "other", "-", "failed"],
        ["3", "other", "1", "exported"],
    ]
    assert [line.split(":")[0] for line in told.err.splitlines() if line.startswith("job ")] == ["job 0", "job 2"]
    (record,) = (here / ".exportkit/sweeps").glob("*/*")
    assert json.loads((record / "1/job.json").read_text())["overrides"] == ["model=mnist_mlp", "bindings.probs=probs\\:0"]
    assert not (here / "multirun").exists()


def test_a_job_that_left_no_record_is_in_the_table(here, run, monkeypatch):
    monkeypatch.setattr("exportkit.cli.sweep.job_record.record", lambda report, seconds: None)
    told = run("-m", "model=mnist_mlp", "hydra/launcher=basic")
    assert told.code == 1
    assert rows_of(told.out) == [["0", "mnist_mlp", "-", "died"]]


# Plan


def test_a_plan_is_shown_in_order_and_writes_nothing(run, here):
    before = sorted(here.rglob("*"))
    told = run("plan", "model=mnist_mlp")
    assert told.code == 0
    stages = [line.split()[0] for line in told.out.splitlines()[3:] if not line.startswith((" ", "warning"))]
    assert stages == ["source", "weights", "bind", "audit", "sign", "write", "verify", "seal", "commit"]
    assert re.search(r"^sign +serving_default: predict \(x\) → \(probs\) +checked$", told.out, re.MULTILINE)
    assert sorted(here.rglob("*")) == before


def test_a_plan_of_a_sweep_shows_each_job(run, here):
    told = run("plan", "-m", "model=mnist_mlp,other", "version=1,auto")
    assert told.code == 0
    assert rows_of(told.out) == [
        ["0", "mnist_mlp", "1", "planned"],
        ["1", "mnist_mlp", "auto", "planned"],
        ["2", "other", "1", "planned"],
        ["3", "other", "auto", "planned"],
    ]
    assert not (here / ".exportkit").exists()
    assert not (here / "exports").exists()


def test_a_plan_of_a_sweep_tells_what_is_wrong_with_its_jobs(run, here):
    told = run("plan", "-m", "model=mnist_mlp,other", "version=1,x")
    assert (told.code, told.out) == (2, "")
    assert told.err.splitlines()[1:] == [
        "job 1 (model=mnist_mlp version=x) and 1 more: version: is the text 'x'; "
        "write auto, timestamp or an integer from 0, without leading zeros"
    ]
    assert not (here / ".exportkit").exists()


def test_a_plan_as_json(run, here):
    told = run("plan", "model=mnist_mlp", "version=3", "--json")
    assert told.code == 0, told.err
    shown = json.loads(told.out)
    assert list(shown) == ["name", "export_dir", "version", "checks", "assets", "warnings"]
    assert (shown["name"], shown["export_dir"], shown["version"]) == ("mnist_mlp", str(here / "exports" / "mnist_mlp"), "3")
    assert shown["assets"] == []
    assert shown["checks"][-1] == {"stage": "commit", "what": f"{here}/exports/mnist_mlp/3", "checked": True}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["model=mnist_mlp", "--build"], "shows a plan that is not built; leave out --build, or --json"),
        (["-m", "model=mnist_mlp,other"], "shows one plan, and this is a sweep; leave it out, or plan one job"),
    ],
)
def test_a_plan_as_json_is_one_that_is_not_built(words, text, run, here):
    told = run("plan", *words, "--json")
    assert (told.code, told.out, told.err) == (2, "", f"--json: {text}\n")


def test_a_graph_may_take_assets_from_the_directory_of_the_config(run, here, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "model").mkdir()
    shutil.copy(here / "conf" / "model" / "mnist_mlp.yaml", elsewhere / "model")
    known, real = [], PLAN.plan

    def plan(config, plugins, directories):
        known.append(list(directories))
        return real(config, plugins, directories)

    monkeypatch.setattr(PLAN, "plan", plan)
    assert run("plan", "--config-dir", str(elsewhere), "model=mnist_mlp").code == 0
    assert run("plan", "model=mnist_mlp").code == 0
    assert known == [[elsewhere], [here / "conf"]]


def test_plan_build_goes_as_far_as_binding(run, here):
    told = run("plan", "model=mnist_mlp", "--build")
    assert told.code == 0, told.err
    assert re.search(r"serving_default +predict +in +x +float32 +\[\?, 3\]", told.out)
    assert not (here / "exports").exists()


# Help


def test_help_lists_what_there_is(run, here):
    told = run("--help")
    assert told.code == 0
    assert "  model=NAME        mnist_mlp, other\n" in told.out
    assert "meta_graph" in told.out
    assert "  post=[A,B]        benchmark, manifest, sign, verify, warmup, note\n" in told.out
    assert "  exportkit -m model=mnist_mlp,other " in told.out


@pytest.mark.parametrize("words", [["export", "--help"], ["model=other", "--help"], ["-h"]])
def test_help_is_help_anywhere(words, run, here):
    assert run(*words).out == run("--help").out


def test_plan_has_help_of_its_own(run, here):
    assert "exportkit plan model=NAME [KEY=VALUE ...] [--build | --json]\n" in run("plan", "--help").out


@pytest.mark.parametrize(
    "words", [["--help"], ["plan", "--help"], [], ["plugins"], ["plugins", "verify"], ["plan", "model=other"]]
)
def test_what_is_printed_holds_at_80_columns(words, run, here, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("exportkit.cli.plugins.load_plugins", hydra_app.plugins)
    told = run(*words)
    assert [line for line in (told.out + told.err).splitlines() if len(line) > 80] == []


def test_no_arguments_are_a_short_help_and_an_error(run, here):
    told = run()
    assert (told.code, told.out) == (2, "")
    assert "model=NAME        mnist_mlp, other" in told.err


def test_version(run):
    assert re.fullmatch(r"exportkit \d+\.\d+\S*\n", run("--version").out)


# Completion


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("exportkit model=mn", "model=mnist_mlp"),
        ("exportkit plan model=mn", "model=mnist_mlp"),
        ("exportkit plan model=", "model=mnist_mlp model=other"),
        ("exportkit model=other -m weights.mov", "weights.moving_average="),
        ("exportkit pl", "plan plugins"),
        ("exportkit plugins no", "note"),
        ("exportkit inspect to", ""),
        ("exportkit model=nothing foo", ""),
        ("exportkit --k", "--keep-going"),
        ("exportkit model=other --conf", "--config-dir --config-name --config-path"),
        ("exportkit plan --bu", "--build"),
        ("exportkit --cfg j", "job"),
        ("exportkit plugins --x", ""),
        ("exportkit plugins --", "--help"),
        ("exportkit inspect --a", "--all"),
        ("exportkit verify exports/1 --no", "--no-run"),
        ("exportkit --bu", ""),
        ("exportkit model=other --force weights.mov", "weights.moving_average="),
    ],
)
def test_tab_completes(line, expected, run, here, monkeypatch):
    monkeypatch.setattr("exportkit.cli.plugins.load_plugins", hydra_app.plugins)
    monkeypatch.setenv("COMP_LINE", line)
    told = run("-sc", "query=bash")
    assert (told.code, told.out.split(), told.err) == (0, expected.split(), "")


def test_fish_reads_one_completion_a_line(run, here, monkeypatch):
    monkeypatch.setenv("COMP_LINE", "exportkit pl")
    assert run("-sc", "query=fish").out == "plan\nplugins\n"


def test_an_interrupted_completion_says_nothing(run, here, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(hydra_app, "run", interrupted)
    monkeypatch.setenv("COMP_LINE", "exportkit model=o")
    told = run("-sc", "query=bash")
    assert (told.code, told.out.strip(), told.err) == (130, "", "")


def test_completion_is_installed_in_hydras_way(run):
    assert "complete -o nospace -o default -F hydra_bash_completion" in run("-sc", "install=bash").out


def test_the_flags_are_hydras_own():
    """Notices a Hydra with other flags."""
    from hydra._internal.utils import get_args_parser

    known = {*arguments.TAKES_VALUE, *arguments.TAKES_NONE, *arguments.MAY_TAKE}
    assert known == {flag for action in get_args_parser()._actions for flag in action.option_strings}


# Plugins


def test_plugins_are_listed_with_where_they_come_from(run):
    told = run("plugins")
    assert re.search(r"^Plugins of exportkit \S+$\n.+\n.+\n^source +encoder +An encoder class", told.out, re.MULTILINE)


def test_a_plugin_is_shown_with_its_keys(run, monkeypatch):
    monkeypatch.setattr("exportkit.cli.plugins.load_plugins", hydra_app.plugins)
    told = run("plugins", "note")
    assert told.out.startswith("post=[note]    ")
    assert "Leaves a note.\n\nNobody reads it.\n" in told.out
    assert re.search(r"^text +str +'hello' +What the note says\.$", told.out, re.MULTILINE)
    assert re.search(
        r"^Plugins of this process.*\n.+\n.+\n^step +note +verify +Leaves a note\.$", run("plugins").out, re.MULTILINE
    )


def test_an_unknown_plugin_gets_its_neighbour(run):
    assert run("plugins", "encodr").err == "encodr: there is no such source, step or binding; did you mean encoder?\n"


def test_field_docs_are_read_from_the_class_body():
    docs = {doc.name: doc for doc in field_docs(Note)}
    assert (docs["text"].doc, docs["times"].doc, docs["tags"].default) == ("What the note says.", "", "[]")


# Commands

GREET = """
from exportkit.errors import ConfigError, Problem
from exportkit.plugin import Command, hookimpl

class Greet(Command):
    '''Greet somebody politely.

    Names are spelt as they are given.
    '''

    name = "greet"
    help = "greet somebody, and say nothing else in the world to anybody"
    usage = "WHOM [--loud]"

    def add_arguments(self, parser):
        parser.add_argument("whom", metavar="WHOM")
        parser.add_argument("--loud", action="store_true", help="in capitals")

    def run(self, arguments):
        options = self.parse(arguments)
        if options.whom == "nobody":
            raise ConfigError(Problem("WHOM", "is nobody", "name somebody"), Problem("", "and it is late"))
        if options.whom == "zero":
            1 / 0
        if options.whom == "none":
            return None
        if options.whom == "256":
            return 256
        text = f"Good morning, {options.whom}"
        print(text.upper() if options.loud else text)
        return 3 if options.loud else 0

    def complete(self, words):
        print("printed by complete")
        return super().complete(words) or [who for who in ("ann", "bob") if who.startswith(words[-1])]

class Long(Command):
    name = "long-command"
    help = "take long"
    usage = "FIRST SECOND THIRD FOURTH"

    def run(self, arguments):
        return 0

    def complete(self, words):
        1 / 0

@hookimpl
def exportkit_commands():
    return [Greet, Long]
"""
HELP = """\
Exports TensorFlow graphs to SavedModel versions that TensorFlow Serving loads,
from configuration alone.

  exportkit model=NAME [KEY=VALUE ...]       export; or: exportkit export ...
  exportkit plan model=NAME [KEY=VALUE ...]  show what an export would do
  exportkit inspect PATH                     look into a checkpoint or what
                                             others exported; suggests a config
  exportkit audit PATH                       what a model of somebody else can
                                             do: files, network, Python
  exportkit verify VERSION_DIR               check a published version again
  exportkit try VERSION                      one answer of a version, without a
                                             server
  exportkit serve BASE_PATH… | models.config
                                             answer requests on this machine as
                                             TensorFlow Serving does
  exportkit client VERSION --lang NAME --out DIR
                                             write a client for exactly one
                                             model
  exportkit probe HOST:PORT NAME             ask a live server whether it
                                             answers what was exported
  exportkit deploy MODELS_CONFIG --to TARGET --out DIR
                                             files that serve these models:
                                             compose, kubernetes
  exportkit plugins [NAME]                   list sources, steps, presets and
                                             policies, or show the keys of one
"""
HELP_OF_PLUGINS = """\

Commands of acme-greeter 1.2
  exportkit greet WHOM [--loud]              greet somebody, and say nothing
                                             else in the world to anybody
  exportkit long-command FIRST SECOND THIRD FOURTH
                                             take long
"""
FROM = "plugin acme-greeter of acme-greeter 1.2: the command greet"


@pytest.fixture
def greeter(install, monkeypatch):
    """A distribution that brings two commands."""
    install("acme-greeter", GREET)
    for module in (choices, hydra_app):
        monkeypatch.setattr(module, "plugins", registry.load_plugins)


def test_every_command_has_the_name_that_it_is_listed_under():
    assert [load(name).name for name in COMMANDS] == list(COMMANDS)


def test_every_command_class_is_listed():
    def below(cls):
        return {cls, *(found for sub in cls.__subclasses__() for found in below(sub))}

    for path in Path(tables.__file__).parent.glob("*.py"):
        import_module(f"exportkit.cli.{path.stem}")
    ours = {cls for cls in below(Command) if cls.__module__.startswith("exportkit.") and not cls.__abstractmethods__}
    assert {f"{cls.__module__}:{cls.__qualname__}" for cls in ours} == set(COMMANDS.values())


def test_help_lists_the_commands(run, here):
    assert run("--help").out.split("\nChoices\n")[0] == HELP


@pytest.mark.parametrize("words", [["--help"], []])
def test_help_lists_the_commands_of_plugins_under_their_distribution(words, greeter, run, here):
    told = run(*words)
    assert (told.out + told.err).split("\nChoices\n")[0] == HELP + HELP_OF_PLUGINS


def test_a_command_of_a_plugin_has_its_own_help(greeter, run, capsys):
    with pytest.raises(SystemExit) as end:
        main(["greet", "--help"])
    assert (end.value.code, capsys.readouterr().out) == (
        0,
        "usage: exportkit greet [-h] [--loud] WHOM\n\nGreet somebody politely.\n\npositional arguments:\n  WHOM\n\n"
        "options:\n  -h, --help  show this help message and exit\n  --loud      in capitals\n",
    )


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        ("greet Ann", 0, "Good morning, Ann\n", ""),
        ("greet Ann --loud", 3, "GOOD MORNING, ANN\n", ""),
        ("greet zero", 1, "", f"{FROM} raised ZeroDivisionError: division by zero; HYDRA_FULL_ERROR=1 shows where\n"),
        ("greet none", 1, "", f"{FROM} returned None, not an exit code; return 0, or 1 to 255 where it failed\n"),
        ("greet 256", 1, "", f"{FROM} returned 256, not an exit code; return 0, or 1 to 255 where it failed\n"),
        ("greet nobody", 2, "", "exportkit: 2 problems\nWHOM: is nobody; name somebody\nand it is late\n"),
        ("gret Ann", 2, "", "gret: is neither a command nor key=value; did you mean greet?\n"),
        (
            "xxx",
            2,
            "",
            f"xxx: is neither a command nor key=value; commands: {', '.join([*COMMANDS, 'greet', 'long-command'])}\n",
        ),
    ],
)
def test_a_command_of_a_plugin_runs(words, code, out, err, greeter, run):
    told = run(*words.split())
    assert (told.code, told.out, told.err) == (code, out, err)


def test_a_command_of_a_plugin_is_traced_for_those_who_ask(greeter, run, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(PluginError) as raised:
        run("greet", "zero")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_commands_of_a_plugin_are_listed_with_it(greeter, run):
    rows = [line.split() for line in run("plugins").out.split("Plugins of acme-greeter 1.2\n")[1].splitlines()[2:4]]
    assert rows == [
        ["command", "greet", *["greet", "somebody,", "and", "say", "nothing", "else", "in", "the", "world", "to", "anybody"]],
        ["long-command", "take", "long"],
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("exportkit gr", "greet"),
        ("exportkit greet --l", "--loud"),
        ("exportkit greet a", "ann"),
        ("exportkit greet ", "ann bob"),
        ("exportkit long-command ", ""),
    ],
)
def test_tab_completes_a_command_of_a_plugin(line, expected, greeter, run, here, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    told = run("-sc", "query=bash")
    assert (told.code, told.out.split()) == (0, expected.split())


@pytest.mark.parametrize(
    ("words", "code"), [("plugins", 0), ("inspect toy", 0), ("greet Ann", 0), ("greet zero", 1), ("verify nowhere", 2)]
)
def test_a_command_that_composes_nothing_starts_without_hydra(words, code, here, greeter):
    script = (
        "import sys; from exportkit.cli import main; code = main(sys.argv[1:]);sys.exit(100 * ('hydra' in sys.modules) + code)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script, *words.split()], capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr


def test_what_inspect_does_needs_no_plugin(install, here, run):
    install("acme", "1 / 0")
    assert run("inspect", "toy").code == 0
    assert run("greet").err.startswith("plugin acme of acme 1.2: cannot be imported: ZeroDivisionError")


# Inspect

SUGGESTED = """\
# @package _global_
defaults: [override /source: meta_graph]
name: toy
source: {checkpoint: toy}
bindings:
  x: {tensor: 'x:0', dtype: float32, shape: [null, 3]}
  keep_prob: {constant: 1.0, replaces: 'keep_prob:0'}
  probs: probs:0
  logits: logits:0
signatures:
  serving_default: {inputs: {x: x}, outputs: {probs: probs, logits: logits}}
"""


def test_inspect_suggests_a_config_that_exports(run, here):
    told = run("inspect", "toy")
    assert told.code == 0
    assert told.out.endswith(f"A config to start from, for conf/model/toy.yaml:\n\n{SUGGESTED}")
    assert re.search(r"^x:0 +float32 +\[\?, 3\] ", told.out, re.MULTILINE)
    assert re.search(r"^kernel/Adam +float32 +\[3, 2\] +24 B +optimizer slot$", told.out, re.MULTILINE)
    assert "5 variables, 80 B; weights 1, 24 B; optimizer slots 2, 48 B; bookkeeping 2, 8 B\n" in told.out
    write(here / "conf/model/toy.yaml", SUGGESTED)
    assert run("model=toy").code == 0


@pytest.mark.parametrize("path", ["toy/model.ckpt-7", "toy/model.ckpt-7.meta", "toy/model.ckpt-7.index"])
def test_inspect_takes_any_file_of_a_checkpoint(path, run, here):
    assert "source: {checkpoint: toy/model.ckpt-7}\n" in run("inspect", path).out


def test_inspect_shows_as_much_as_is_asked_for(run, here):
    few, whole = run("inspect", "toy").out, run("inspect", "toy", "--all").out
    assert len(whole) >= len(few)
    assert " more)" not in whole


def test_inspect_of_a_checkpoint_without_its_graph(run, here, tmp_path, toy):
    for file in toy.glob("model.ckpt-7.[!m]*"):
        write(tmp_path / "bare" / file.name, "").write_bytes(file.read_bytes())
    told = run("inspect", "bare/model.ckpt-7")
    assert told.code == 0
    assert "bare/model.ckpt-7.meta: is not there, so the graph is not known; " in told.out
    assert re.search(r"^kernel +float32", told.out, re.MULTILINE)


def test_inspect_of_a_saved_model_shows_its_signatures(run, here):
    run("model=mnist_mlp")
    for path in ("exports/mnist_mlp/1", "exports/mnist_mlp/1/saved_model.pb"):
        told = run("inspect", path)
        assert told.out.startswith("exports/mnist_mlp/1: a SavedModel\ngraph tagged serve: ")
        assert re.search(r"^serving_default +predict +in +x +float32 +\[\?, 3\]", told.out, re.MULTILINE)
        assert "1 variables, 24 B" in told.out or "weights 1, 24 B" in told.out


def test_inspect_of_nothing(run, here):
    assert run("inspect", "nowhere/model.ckpt").code == 2


# Tables


def test_a_table_in_a_file_is_plain_text(capsys):
    tables.table("Title", ["a", "b"], [("x", "1"), ("x", "2")], once=1)
    assert capsys.readouterr().out == "Title\na   b\n─────\nx   1\n    2\n"


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (340_000, "340 kB"), (2.5e9, "2.5 GB")]
)
def test_bytes_are_said_as_a_person_would(size, said):
    assert tables.size_text(size) == said


# Without TensorFlow

QUIET = """
import sys
from exportkit.cli import main
try:
    main(sys.argv[1:])
finally:
    print("tensorflow" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        [],
        ["plan", "model=mnist_mlp"],
        ["inspect", "toy"],
        ["plugins"],
        ["plugins", "encoder"],
        ["model=mnist_mpl"],
        ["plan"],
    ],
    ids=" ".join,
)
def test_what_does_not_build_does_not_import_tensorflow(words, here):
    done = subprocess.run([sys.executable, "-c", QUIET, *words], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "False", done.stderr


def test_a_reader_that_goes_away_is_no_error(here):
    done = subprocess.run(f"{sys.executable} -m exportkit plugins | true", shell=True, capture_output=True, text=True)
    assert done.stderr == ""


# What has no effect is told


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("model=other --force", "--force: is for sweeps, and this is one export; add -m, or leave it out"),
        ("plan model=other --keep-going", "--keep-going: is for sweeps, and this is one export; add -m, or leave it out"),
        (
            "model=other signatures={}",
            "signatures: {} changes nothing, as Hydra merges mappings; take out each entry: ~signatures.NAME",
        ),
        (
            "plan -m model=other,mnist_mlp samples.s={},{a:1}",
            "samples.s: {} changes nothing, as Hydra merges mappings; take out each entry: ~samples.s.NAME",
        ),
    ],
)
def test_words_without_effect_are_told(words, text, here, run):
    told = run(*words.split())
    assert (told.code, told.err) == (2, f"{text}\n")


def test_an_empty_mapping_may_be_added(here, run):
    assert run("model=other", "+vars.none={}", "--cfg", "job", "-p", "vars").out == "# @package vars\nnone: {}\n"


def test_a_plan_of_a_sweep_takes_the_sweep_s_switches(here, run):
    told = run("plan", "-m", "model=other,mnist_mlp", "--force")
    assert (told.code, told.out.count(" planned ")) == (0, 2)


@pytest.mark.parametrize(
    ("command", "argument", "text"),
    [
        ("verify exports/1", "--atol=-1", "is -1; write 0 or more"),
        ("verify exports/1", "--atol=nan", "is nan; write 0 or more"),
        ("verify exports/1", "--rtol=inf", "is inf; write 0 or more"),
        ("verify exports/1", "--rtol=x", "is x; write 0 or more"),
        ("serve m", "--rest-port=x", "is x; write 0 to 65535"),
        ("serve m", "--grpc-port=70000", "is 70000; write 0 to 65535"),
        ("serve m", "--grpc-port=1_0", "is 1_0; write 0 to 65535"),
        ("serve m", "--timeout=0", "is 0; write more than 0"),
        ("serve m", "--poll=", "is empty; write more than 0"),
        ("serve m", "--max-body=0", "is 0; write 1 or more"),
        ("serve m", "--max-requests=1.5", "is 1.5; write 1 or more"),
        ("probe m", "--requests=0", "is 0; write 1 to 100000"),
        ("probe m", "--requests=1e3", "is 1e3; write 1 to 100000"),
        ("probe m", "--version=-1", "is -1; write the number of a version"),
        ("probe m", "--version=9223372036854775808", "is 9223372036854775808; write the number of a version"),
        ("probe m", "--version=٣", "is ٣; write the number of a version"),
        ("probe m", f"--version={'9' * 5000}", f"is {'9' * 5000}; write the number of a version"),
    ],
)
def test_a_number_that_an_argument_cannot_have_is_one_line(command, argument, text, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command.split(), argument])
    name, flag = command.split()[0], argument.partition("=")[0]
    assert (end.value.code, capsys.readouterr().err) == (2, f"exportkit {name}: error: argument {flag}: {text}\n")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("serve x --restport 3", "unrecognized arguments: --restport 3; did you mean --rest-port?"),
        ("probe h:1 m --vesion=1", "unrecognized arguments: --vesion=1; did you mean --version?"),
        ("try x y", "unrecognized arguments: y; exportkit try --help shows what there is"),
        ("serve x --max-body x", "argument --max-body: is x; write 1 or more"),
        ("serve x --poll soon", "argument --poll: is soon; write more than 0"),
        ("deploy x --out y --to kubernets", "argument --to: invalid choice: 'kubernets' (…); did you mean kubernetes?"),
        ("verify x --allow host_file", "argument --allow: invalid choice: 'host_file' (…); did you mean host_files?"),
    ],
)
def test_a_wrong_argument_is_one_line_with_the_nearest_right_one(words, error, run, capsys):
    with pytest.raises(SystemExit) as end:
        main(words.split())
    (line,) = capsys.readouterr().err.splitlines()
    shown = re.sub(r"\(choose from .*\)", "(…)", line)
    assert (end.value.code, shown) == (2, f"exportkit {words.split()[0]}: error: {error}")


def test_who_leaves_arguments_out_sees_the_usage(run, capsys):
    with pytest.raises(SystemExit):
        main(["audit"])
    assert capsys.readouterr().err == (
        "usage: exportkit audit [-h] [--all] [--json] PATH\n"
        "exportkit audit: error: the following arguments are required: PATH\n"
    )


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "gs://bucket/r.json",
            "gs://bucket/r.json is an address, and only local files are read and written; give a path on this machine",
        ),
        ("conf", "{here}/conf is a directory; name a file in it"),
    ],
)
def test_a_report_that_cannot_be_written_is_told_before_anything_runs(path, text, here, run):
    told = run("model=other", f"report.path={path}", "bindings.x=nowhere:0")
    assert told.code == 2
    assert f"report.path: {text.format(here=here)}" in told.err.splitlines()
    assert not (here / "gs:").exists()


def test_a_report_of_a_plan_that_failed_says_where_it_cannot_be_written(here, run):
    told = run("model=other", "report.path=gs://bucket/r.json", "export_dir='${nme}'")
    assert told.code == 2
    assert told.err.splitlines()[-1] == (
        "report.path: gs://bucket/r.json is an address, and only local files are read and written; give a path on this machine"
    )
    assert not (here / "gs:").exists()


# All that plugins add is shown


def test_ranges_are_shown_with_the_keys(run):
    shown = run("plugins", "warmup").out
    assert re.search(r"^batch_sizes +list\[int\], 1 or more entries, each 1 or more +\[1\] ", shown, re.MULTILINE)
    assert re.search(r"^repeat +int, 1 or more +1 ", shown, re.MULTILINE)


class Listener:
    @hookimpl
    def exportkit_check_plan(self, plan):
        """Asks for an owner."""

    @hookimpl
    def exportkit_export_finished(self, report):
        """Writes to the audit log."""

    @hookimpl
    def exportkit_conf_packages(self):
        return ["acme_conf"]


def test_what_the_system_refuses_to_a_command_is_one_line(run, monkeypatch):
    def refuse():
        raise PermissionError(errno.EACCES, "Permission denied", "/etc/secret")

    monkeypatch.setattr("exportkit.cli.plugins.load_plugins", refuse)
    told = run("plugins")
    refused = "/etc/secret: permission denied; make it writable, or choose another directory\n"
    assert (told.code, told.out, told.err) == (1, "", refused)


def test_policies_observers_and_presets_are_listed(run, monkeypatch, tmp_path):
    write(tmp_path / "acme_conf/experiment/acme_nightly.yaml", "# @package _global_\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("exportkit.cli.plugins.load_plugins", lambda: registry.load_plugins({"acme": Listener()}))
    table = run("plugins").out.partition("Plugins of this process")[2].splitlines()
    assert [line.split() for line in table[3:] if line] == [
        ["preset", "experiment=acme_nightly"],
        ["policy", "acme", "Asks", "for", "an", "owner."],
        ["observer", "acme", "Writes", "to", "the", "audit", "log."],
    ]
