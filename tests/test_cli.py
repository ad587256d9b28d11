"""The command line: what it says, where, and with which exit code. Texts are asserted whole where a user acts on them."""

import copy
import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from exportkit import registry
from exportkit.cli import arguments, export, hydra_app, main, tables
from exportkit.cli.fielddocs import field_docs
from exportkit.errors import ConfigError
from exportkit.plugin import Phase, PostStep, hookimpl
from exportkit.report import SignatureReport, TensorReport
from exportkit.serving import rest_request
from exportkit.spec import Feature, ParseExample

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
        Path(exportkit.conf.__file__).parent, root / "packaged_conf", ignore=shutil.ignore_patterns("model", "signature")
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


@pytest.fixture(autouse=True)
def hydra_state(monkeypatch, packaged):
    """Hydra configures logging and keeps registries; each test begins with what there was."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.singleton import Singleton

    plugins = registry.load_plugins({"note": NotePlugin()})
    monkeypatch.setattr(hydra_app, "plugins", lambda: plugins)
    monkeypatch.setattr(hydra_app, "CONF", packaged)
    monkeypatch.setattr(ConfigStore.instance(), "repo", dict(ConfigStore.instance().repo))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(logging, "_handlerList", [])  # dictConfig closes them all, those of pytest too
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    singletons = copy.deepcopy(Singleton.get_state())
    yield
    Singleton.set_state(singletons)
    root.handlers[:], root.level = handlers, level


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
    "experiment=big": "experiment: there is no 'big'; known: nightly",
    "model.name=x": "model: is a choice of files and has no keys; write model=NAME; begin its files with # @package _global_",
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
    "--cfg jb": "--cfg: cannot be 'jb'; one of job, hydra, all",
    "--resolve": "command line: The --resolve flag can only be used in conjunction with --cfg or --help",
}


@pytest.mark.parametrize("words", ERRORS)
@pytest.mark.parametrize("command", ["export", "plan"])
def test_what_hydra_refuses_is_one_line(words, command, run, here):
    told = run(command, *words.split())
    assert (told.code, told.err) == (2, ERRORS[words] + "\n")


FILES = {
    "bindngs: {a: b}": "bindngs: no such key (conf/model/bad.yaml); did you mean bindings?",
    "weights: {moving_average: maybe}": "weights.moving_average: is 'maybe', not true or false (conf/model/bad.yaml)",
    "defaults: [override /sorce: meta_graph]": "sorce: no such group (conf/model/bad.yaml); did you mean source?",
    "name: a\n\tversion: 1": "conf/model/bad.yaml:3: is not YAML: found character '\\t' that cannot start any token",
    "name: a\nname: b": "conf/model/bad.yaml:3: is not YAML: found duplicate key name",
}


@pytest.mark.parametrize("text", FILES)
def test_what_is_wrong_in_a_file_names_the_file(text, run, here):
    write(here / "conf/model/bad.yaml", f"# @package _global_\n{text}\n")
    told = run("model=bad")
    assert (told.code, told.err) == (2, FILES[text] + "\n")


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
    with pytest.raises(hydra_app.JobFailed) as raised:
        run("plan", "model=other", "version=x")
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
    assert pickle.loads(pickle.dumps(export.job)) is export.job


def test_a_directory_that_cannot_be_made_is_the_machines_fault(run, here):
    write(here / ".exportkit", "a file")
    told = run("-m", "model=other", "hydra.sweep.dir=.exportkit/here")
    assert (told.code, told.err.splitlines()[-1]) == (1, f"{here}/.exportkit/here: Not a directory")


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

    def plan(config, plugins):
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
    told = run("model=mnist_mlp", "report.path=out/report.json")
    assert told.code == 0, told.err
    assert re.match(r"mnist_mlp: exported version 1 to exports/mnist_mlp/1 in \d+\.\d s\n", told.out)
    assert re.search(r"serving_default +predict +in +x +float32 +\[\?, 3\]", told.out)
    assert re.search(r"variables +1, 24 B", told.out)
    assert (
        f"tensorflow_model_server --rest_api_port=8501 --model_name=mnist_mlp --model_base_path={here}/exports/mnist_mlp\n"
        in told.out
    )
    assert (
        """curl -d '{"signature_name": "serving_default", "instances": [{"x": [0.0, 0.0, 0.0]}]}' """
        "http://localhost:8501/v1/models/mnist_mlp:predict\n"
    ) in told.out
    assert told.err.splitlines()[:2] == ["mnist_mlp: import tensorflow", "mnist_mlp: build"]
    assert json.loads((here / "out/report.json").read_text())["status"] == "exported"


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
    assert stages == ["source", "weights", "bind", "sign", "write", "verify", "seal", "commit"]
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
    for command in ("plan", "inspect", "verify", "plugins"):
        assert f"\n  exportkit {command} " in told.out


@pytest.mark.parametrize("words", [["export", "--help"], ["model=other", "--help"], ["-h"]])
def test_help_is_help_anywhere(words, run, here):
    assert run(*words).out == run("--help").out


def test_plan_has_help_of_its_own(run, here):
    assert "exportkit plan model=NAME [key=value ...] [--build]\n" in run("plan", "--help").out


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
    ],
)
def test_tab_completes(line, expected, run, here, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    told = run("-sc", "query=bash")
    assert (told.code, told.out.split(), told.err) == (0, expected.split(), "")


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
    assert re.search(r"^source +encoder +.+ exportkit +\S+$", told.out, re.MULTILINE)


def test_a_plugin_is_shown_with_its_keys(run, monkeypatch):
    monkeypatch.setattr("exportkit.cli.plugins.load_plugins", hydra_app.plugins)
    told = run("plugins", "note")
    assert told.out.startswith("post=[note]    ")
    assert "Leaves a note.\n\nNobody reads it.\n" in told.out
    assert re.search(r"^text +str +'hello' +What the note says\.$", told.out, re.MULTILINE)
    assert re.search(r"^ +note +verify +Leaves a note\. +this process *-?$", run("plugins").out, re.MULTILINE)


def test_an_unknown_plugin_gets_its_neighbour(run):
    assert run("plugins", "encodr").err == "encodr: there is no such source or step; did you mean encoder?\n"


def test_field_docs_are_read_from_the_class_body():
    docs = {doc.name: doc for doc in field_docs(Note)}
    assert (docs["text"].doc, docs["times"].doc, docs["tags"].default) == ("What the note says.", "", "[]")


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


# Requests and tables


def tensor(alias: str, dtype: str, *shape: int | None, binding: str = "b") -> TensorReport:
    return TensorReport(alias=alias, binding=binding, tensor="t:0", dtype=dtype, shape=list(shape))


def request(
    method: str, inputs: list[TensorReport], outputs: list[TensorReport], bindings: dict[str, Any] | None = None
) -> str:
    return rest_request.request("m", SignatureReport(key="s", method=method, inputs=inputs, outputs=outputs), bindings or {})


URL = "http://localhost:8501/v1/models/m"


def test_a_request_goes_row_by_row_where_tensors_have_a_batch():
    told = request(
        "predict", [tensor("a", "int64", None, 2), tensor("b_bytes", "string", None)], [tensor("y", "float32", None)]
    )
    body = '{"signature_name": "s", "instances": [{"a": [0, 0], "b_bytes": {"b64": ""}}]}'
    assert told == f"curl -d '{body}' {URL}:predict"


def test_a_request_gives_whole_tensors_where_one_has_no_batch():
    told = request("predict", [tensor("a", "bool", None)], [tensor("y", "float32")])
    assert told == f"""curl -d '{{"signature_name": "s", "inputs": {{"a": [false]}}}}' {URL}:predict"""


def test_a_request_of_examples_has_their_features():
    parsed = ParseExample(parse_example={"f": Feature(dtype="float32", shape=[2, 2]), "n": Feature(dtype="string")})
    told = request("classify", [tensor("inputs", "string", None, binding="e")], [tensor("y", "float32", None)], {"e": parsed})
    body = '{"signature_name": "s", "examples": [{"f": [0.0, 0.0, 0.0, 0.0], "n": ""}]}'
    assert told == f"curl -d '{body}' {URL}:classify"


def test_a_large_request_is_made_by_a_program_that_works():
    inputs = [tensor("image", "float32", None, 50, 50, 3), tensor("flag", "bool", None)]
    program, curl = request("predict", inputs, [tensor("y", "float32", None)]).split(" | ")
    assert curl == f"curl -d @- {URL}:predict"
    body = json.loads(subprocess.run(program, shell=True, capture_output=True, check=True).stdout)
    (instance,) = body["instances"]
    assert (len(instance["image"]), len(instance["image"][0]), instance["image"][0][0]) == (50, 50, [0.0, 0.0, 0.0])
    assert instance["flag"] is False


def test_a_table_in_a_file_is_plain_text(capsys):
    tables.table("Title", ["a", "b"], [("x", "1"), ("x", "2")], once=1)
    assert capsys.readouterr().out == "Title\na   b\n─────\nx   1\n    2\n"


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (340_000, "340 kB"), (2.5e9, "2.5 GB")]
)
def test_bytes_are_said_as_a_person_would(size, said):
    assert tables.size_text(size) == said


def test_every_directory_of_configs_is_packaged_but_the_examples_models():
    root = Path(__file__).parents[1]
    packages = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    directories = {path.parent.relative_to(root / "conf") for path in (root / "conf").rglob("*.yaml")}
    wanted = {".".join(["exportkit.conf", *directory.parts]) for directory in directories if directory.parts[:1] != ("model",)}
    assert {name for name in packages if name.startswith("exportkit.conf.")} == (wanted | {"exportkit.conf.hydra"}) - {
        "exportkit.conf"
    }


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
