"""Ways in which a plugin can misbehave, and what is said of each: who it was, what it did, and what to do.

Every plugin here is of the distribution acme 1.2, installed for one test.
"""

import os
import re
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import toys

import exportkit
from exportkit.errors import ExportKitError
from exportkit.registry import load_plugins

ACME = "plugin acme of acme 1.2"
OFF = "upgrade or uninstall it, or switch it off with EXPORTKIT_DISABLE_PLUGINS=acme"
IMPORTS = """
import os, sys, threading, time
from dataclasses import dataclass
from pathlib import Path
from exportkit.errors import ConfigError, Problem, StepFailed
from exportkit.plugin import ModelSource, Phase, PostStep, Preview, SourceModel, hookimpl
from exportkit import checkpoint as bundle, metagraph
"""


def told(refusal):
    """What is said, without the lines of acme's code; `test_an_exception_names_its_innermost_line_in_the_plugin` has those."""
    return re.sub(r" \(\S+/acme\.py:\d+\)", "", str(refusal))


STEP = """
@dataclass(kw_only=True)
class Bad(PostStep):
    kind: str = "bad"
    phase = Phase.{phase}

    def run(self, export):
        version = export.directory
        weights = version / "variables/variables.data-00000-of-00001"
{body}

@hookimpl
def exportkit_post_steps():
    return [Bad]
"""
SOURCE = """
@dataclass(kw_only=True)
class Bad(ModelSource):
    kind: str = "bad"
    checkpoint: str = "toy/model.ckpt-1"

    def build(self, preview, scratch, wanted):
        graph = metagraph.read(self.checkpoint + ".meta")
{body}

@hookimpl
def exportkit_model_sources():
    return [Bad]
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toys.saved(tmp_path_factory.mktemp("toy"), toys.dense)


@pytest.fixture
def export(install, toy, tmp_path):
    """Install acme with this code and export with it; returns the report, or the refusal."""

    def run(code, **changes):
        install("acme", IMPORTS + code)
        config = toys.config(toy, tmp_path, **changes)
        try:
            return toys.export(config)
        except ExportKitError as refusal:
            return refusal

    return run


def versions(tmp_path):
    base = tmp_path / "exports/toy"
    return sorted(os.listdir(base)) if base.is_dir() else []


def indented(code):
    return textwrap.indent(code, " " * 8)


LOADING = {
    "cannot be imported": ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
    "imports what is not installed": (
        "import no_such",
        "cannot be imported: ModuleNotFoundError: No module named 'no_such'",
    ),
    "exits when imported": ("sys.exit(3)", "cannot be imported: SystemExit: 3"),
    "implements no hook": (
        "",
        "implements no hook; there are exportkit_model_sources, exportkit_post_steps, exportkit_bindings, "
        "exportkit_conf_packages, exportkit_commands, exportkit_check_plan, exportkit_export_finished",
    ),
    "forgets @hookimpl": (
        "def exportkit_post_steps(): return []",
        "exportkit_post_steps is not marked as a hook; put @hookimpl above it",
    ),
    "misspells a hook": (
        "@hookimpl\ndef exportkit_post_step(): ...",
        "there is no hook 'exportkit_post_step'; did you mean exportkit_post_steps?",
    ),
    "asks a hook for what it does not give": (
        "@hookimpl\ndef exportkit_check_plan(plan, report): ...",
        "exportkit_check_plan takes 'report', which the hook does not give; it gives plan, prepared",
    ),
    "raises in a hook": (
        "@hookimpl\ndef exportkit_post_steps(): return [Later]",
        "exportkit_post_steps raised NameError: name 'Later' is not defined",
    ),
    "offers what is no step": (
        "@hookimpl\ndef exportkit_post_steps(): return ['bad']",
        "exportkit_post_steps returned ['bad'], not a list of PostStep classes, each with a kind",
    ),
    "offers a kind that is taken": (
        SOURCE.format(body="        ...").replace('"bad"', '"meta_graph"'),
        "offers source 'meta_graph', and so does {meta_graph}",
    ),
    "offers a kind that is no name": (
        STEP.format(phase="VERIFY", body="        ...").replace('"bad"', '"bad step"'),
        "offers step 'bad step', which cannot be an option's name; write letters, digits and _",
    ),
    "forgets the phase": (
        STEP.format(phase="VERIFY", body="        ...").replace("phase = Phase.VERIFY", ""),
        "offers step 'bad' without a phase; set phase to one of Phase",
    ),
    "forgets run": (
        STEP.format(phase="VERIFY", body="        ...").replace("def run", "def go"),
        "offers step 'bad' without run(); PostStep asks for it",
    ),
    "forgets @dataclass": (
        STEP.format(phase="VERIFY", body="        ...").replace("@dataclass(kw_only=True)", ""),
        "offers step 'bad', which is not a dataclass; put @dataclass(kw_only=True) above it",
    ),
    "has a field that no config can hold": (
        STEP.format(phase="VERIFY", body="        ...").replace("phase =", "when: complex = 1j\n    phase ="),
        "offers step 'bad', whose field 'when' of type complex no config can hold; "
        "use str, int, float, bool, Path, list, dict, Literal, Enum, a dataclass, one of these or None, or Any",
    ),
    "names a config package that is not there": (
        "@hookimpl\ndef exportkit_conf_packages(): return ['acme_conf']",
        "there is no config package acme_conf",
    ),
}


@pytest.mark.parametrize("way", LOADING)
def test_a_plugin_that_cannot_be_loaded_stops_every_run(way, install):
    code, what = LOADING[way]
    plugins = load_plugins()
    install("acme", IMPORTS + code)
    with pytest.raises(ExportKitError) as refusal:
        load_plugins()
    other = plugins.providers[plugins.sources["meta_graph"]]
    off = f"{OFF} or meta_graph" if "{meta_graph}" in what else OFF
    assert told(refusal.value) == f"{ACME}: {what.format(meta_graph=other)}; {off}"


PLANNING = {
    "raises in a policy": (
        "@hookimpl\ndef exportkit_check_plan(plan): return 1 / 0",
        f"{ACME}: exportkit_check_plan raised ZeroDivisionError: division by zero; {OFF}",
    ),
    "returns junk from a policy": (
        "@hookimpl\ndef exportkit_check_plan(plan): return 'no owner'",
        f"{ACME}: exportkit_check_plan returned 'no owner', not a list of Problems; {OFF}",
    ),
    "raises in preview": (
        SOURCE.format(body="        ...").replace("def build", "def preview(self): return 1 / 0\n\n    def build"),
        f"source ({ACME}): preview raised ZeroDivisionError: division by zero",
    ),
    "returns junk from preview": (
        SOURCE.format(body="        ...").replace("def build", "def preview(self): ...\n\n    def build"),
        f"source ({ACME}): preview returned a NoneType, not a Preview",
    ),
    "raises when it is made": (
        SOURCE.format(body="        ...").replace("def build", "def __post_init__(self): 1 / 0\n\n    def build"),
        f"source ({ACME}): raised ZeroDivisionError: division by zero",
    ),
    "refuses when it is made": (
        SOURCE.format(body="        ...").replace(
            "def build",
            "def __post_init__(self): raise ConfigError(Problem('checkpoint', 'is too old', 'train again'))\n\n    def build",
        ),
        "source.checkpoint: is too old; train again",
    ),
    "refuses as a step when it is made": (
        STEP.format(phase="VERIFY", body=indented("...")).replace(
            "def run",
            "def __post_init__(self):\n"
            "        raise ConfigError(Problem('atol', 'is -1', 'write 0 or more'), Problem('', 'is idle', 'drop it'))\n\n"
            "    def run",
        ),
        f"post.bad.atol: is -1; write 0 or more\npost.bad ({ACME}): is idle; drop it",
    ),
}


@pytest.mark.parametrize("way", PLANNING)
def test_a_plugin_that_breaks_a_plan_is_named(way, export, tmp_path):
    code, text = PLANNING[way]
    chosen = {"source": {"kind": "bad"}} if "(ModelSource)" in code else {}
    chosen |= {"post": {"bad": {"kind": "bad"}}} if "(PostStep)" in code else {}
    assert told(export(code, **chosen)) == text
    assert versions(tmp_path) == []


BUILDING = {
    "raises in build": ("raise ValueError('two\\nlines')", "raised ValueError: two lines"),
    "exits in build": ("sys.exit('no licence')", "raised SystemExit: no licence"),
    "does not find a file": ("open('words.txt')", "words.txt: no such file or directory"),
    "returns nothing from build": ("...", "build returned a NoneType, not a SourceModel"),
    "returns a path for a graph": (
        "return SourceModel(self.checkpoint + '.meta', self.checkpoint)",
        "build returned a meta_graph that is a str, not a MetaGraphDef",
    ),
    "returns an empty graph": (
        "graph.graph_def.Clear()\nreturn SourceModel(graph, self.checkpoint)",
        "build returned a meta_graph without any node",
    ),
    "returns a checkpoint that is not there": (
        "return SourceModel(graph, str(scratch / 'model'))",
        "build returned a checkpoint that is not there: {scratch}/model: no checkpoint is there; {scratch} is empty",
    ),
    "returns a reader for a checkpoint": (
        "return SourceModel(graph, bundle.Bundle(self.checkpoint))",
        "build returned a checkpoint that is a Bundle, not a prefix",
    ),
    "offers a tensor that is not there": (
        "return SourceModel(graph, self.checkpoint, {'probs': 'prob:0'})",
        "build returned tensors['probs'] = 'prob:0', which is no tensor of its graph",
    ),
    "notes one text": (
        "return SourceModel(graph, self.checkpoint, notes='fine')",
        "build returned notes that are not a list of texts",
    ),
}


@pytest.mark.quick(5)
@pytest.mark.parametrize("way", BUILDING)
def test_a_source_that_does_not_build_a_model_is_named(way, export, toy, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(scratch))
    body, text = BUILDING[way]
    refusal = export(SOURCE.format(body=indented(body)), source={"kind": "bad", "checkpoint": toy})
    assert told(refusal) == f"source ({ACME}): {text.format(scratch=scratch / 'source-0')}"
    assert versions(tmp_path) == []


PLANNED = STEP.replace("    def run", "    def __post_init__(self):\n        {check}\n\n    def run")


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ("raise ConfigError('needs a licence')", f"post.check ({ACME}): needs a licence"),
        ("raise ConfigError()", f"post.check ({ACME}): ConfigError gives no reason"),
        ("raise ConfigError(Problem('text', 'is empty'))", "post.check.text: is empty"),
        ("raise StepFailed('is slow')", f"post.check ({ACME}): raised StepFailed: is slow"),
    ],
)
def test_a_step_that_cannot_be_made_does_not_vanish(check, text, export, tmp_path):
    code = PLANNED.format(phase="VERIFY", check=check, body=indented("..."))
    refusal = export(code, post={"check": {"kind": "bad"}})
    assert told(refusal) == text
    assert versions(tmp_path) == []


def test_a_step_that_counts_as_false_runs(export):
    code = STEP.format(phase="VERIFY", body=indented("return {'ran': True}")).replace(
        "    def run", "    def __len__(self): return 0\n\n    def run"
    )
    assert export(code, post={"bad": {"kind": "bad"}}).steps[0].details == {"ran": True}


PREVIEW = SOURCE.replace("    def build", "    def preview(self):\n        {preview}\n\n    def build")


@pytest.mark.parametrize(
    ("preview", "text"),
    [
        ("raise ConfigError('needs a licence')", f"source ({ACME}): needs a licence"),
        ("raise ConfigError(Problem('checkpoint', 'is old'))", "source.checkpoint: is old"),
        (
            "return Preview(problems=['is old'])",
            f"source ({ACME}): preview returned 'is old' among its problems, not a Problem",
        ),
        (
            "return Preview(signatures={'a': 'b'})",
            f"source ({ACME}): preview returned signatures['a'] that is a str, not a Signature",
        ),
        (
            "import exportkit.plugin as door\n"
            "        return Preview(signatures={'a': door.Signature(inputs={}, outputs={'y': 'z'})})",
            f"source ({ACME}): preview returned signatures['a'] of 'z', which is not among its tensors",
        ),
        (
            "return Preview(warnings='old')",
            f"source ({ACME}): preview returned warnings that are not a list of texts",
        ),
    ],
)
def test_a_source_that_refuses_with_a_text_is_named(preview, text, export):
    assert told(export(PREVIEW.format(preview=preview, body=indented("...")), source={"kind": "bad"})) == text


def test_a_build_that_refuses_with_a_text_is_named(export, toy):
    code = SOURCE.format(body=indented("raise ConfigError('needs a licence')"))
    assert told(export(code, source={"kind": "bad", "checkpoint": toy})) == f"source ({ACME}): needs a licence"


ADDS_ONLY = "may add files and nothing else"
NO_TOUCH = "may not touch the version"
DATA = "variables/variables.data-00000-of-00001"
STEPPING = {
    "raises": ("VERIFY", "raise RuntimeError('two\\nlines')", "raised RuntimeError: two lines"),
    "exits": ("VERIFY", "sys.exit(1)", "raised SystemExit: 1"),
    "hangs": (
        "VERIFY",
        "time.sleep(60)",
        "ran longer than its timeout of 0.2 s; set post.bad.timeout higher, or to null for no limit",
    ),
    "returns junk": ("VERIFY", "return ['fine']", "returned a list; return a mapping for the report, or nothing"),
    "returns what is not plain": (
        "VERIFY",
        "return {'where': version}",
        "returned what JSON cannot hold: Object of type PosixPath is not JSON serializable; "
        "return texts, numbers, lists and mappings",
    ),
    "changes weights": (
        "AUGMENT",
        "with weights.open('r+b') as file: file.write(b'junk')",
        f"changed {DATA}; a step of phase AUGMENT {ADDS_ONLY}",
    ),
    "changes weights and sets the time back": (
        "AUGMENT",
        "before = weights.stat()\n"
        "with weights.open('r+b') as file: file.write(b'junk')\n"
        "os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))",
        f"changed {DATA}; a step of phase AUGMENT {ADDS_ONLY}",
    ),
    "puts another graph in place": (
        "SEAL",
        "graph = (version / 'saved_model.pb').read_bytes()\n"
        "(version / 'other').write_bytes(graph)\n"
        "os.replace(version / 'other', version / 'saved_model.pb')",
        f"changed saved_model.pb; a step of phase SEAL {ADDS_ONLY}",
    ),
    "removes a file": (
        "AUGMENT",
        "weights.unlink()\n(version / 'notes.txt').write_text('slim now')",
        f"added notes.txt; removed {DATA}; a step of phase AUGMENT {ADDS_ONLY}",
    ),
    "adds a link": (
        "AUGMENT",
        "(version / 'assets.extra').mkdir()\n(version / 'assets.extra/words').symlink_to('/etc')",
        "added assets.extra/words, which is not a plain file; copy what it points to",
    ),
    "writes where it may only read": (
        "VERIFY",
        "(version / 'verified').touch()",
        f"added verified; a step of phase VERIFY {NO_TOUCH}",
    ),
    "fails with a text": ("VERIFY", "raise StepFailed('is slow')", "is slow"),
    "fails without a text": ("VERIFY", "raise StepFailed()", "StepFailed gives no reason"),
    "makes a directory where it may only read": (
        "VERIFY",
        "(version / 'empty').mkdir()",
        f"added empty/; a step of phase VERIFY {NO_TOUCH}",
    ),
    "signs what it does not name": (
        "SIGN",
        "(version / 'mine.sig').touch()",
        "added mine.sig; a step of phase SIGN adds only its signature_files (it names none)",
    ),
    "makes a file executable": (
        "VERIFY",
        "weights.chmod(0o755)",
        f"changed {DATA}; a step of phase VERIFY {NO_TOUCH}",
    ),
}


@pytest.mark.quick(6)
@pytest.mark.parametrize("way", STEPPING)
def test_a_step_that_misbehaves_leaves_no_version(way, export, tmp_path):
    phase, body, text = STEPPING[way]
    step = {"kind": "bad", "timeout": 0.2} if way == "hangs" else {"kind": "bad"}
    refusal = export(STEP.format(phase=phase, body=indented(body)), post={"bad": step})
    assert told(refusal) == f"post.bad ({ACME}): {text}"
    assert refusal.report.steps[0].status == "failed"
    assert versions(tmp_path) == []


BEGINNING = """
@dataclass(kw_only=True)
class Bad(PostStep):
    kind: str = "bad"
    phase = Phase.VERIFY

    def begin(self, export):
{begin}

    def run(self, export):
{run}

@hookimpl
def exportkit_post_steps():
    return [Bad]
"""


def test_a_step_that_cannot_begin_leaves_no_version(export, tmp_path):
    code = BEGINNING.format(begin=indented("raise RuntimeError('no')"), run=indented("pass"))
    assert told(export(code, post={"bad": {"kind": "bad"}})) == f"post.bad ({ACME}): raised RuntimeError: no"
    assert versions(tmp_path) == []


@pytest.mark.parametrize(("run", "exported"), [("pass", ["1"]), ("raise StepFailed('is slow')", [])])
def test_what_a_step_has_begun_finds_nothing_written_and_is_closed(run, exported, export, tmp_path):
    closed = tmp_path / "closed"
    begin = f"""
class Begun:
    def close(self): Path({str(closed)!r}).touch()
assert not list(export.directory.iterdir()) and not export.meta_graphs
export.begun["mine"] = Begun()
"""
    run = f"assert not Path({str(closed)!r}).exists() and 'mine' in export.begun and export.meta_graphs\n{run}"
    export(BEGINNING.format(begin=indented(begin), run=indented(run)), post={"bad": {"kind": "bad"}})
    assert closed.exists()
    assert versions(tmp_path) == exported


@pytest.mark.parametrize(("begin", "exported"), [("pass", ["1"]), ("raise StepFailed('has no room')", [])])
def test_a_step_may_begin_again_when_all_files_are_written(begin, exported, export, tmp_path):
    written = f"""
assert (export.directory / "saved_model.pb").is_file() and export.meta_graphs
assert (export.directory / "variables" / "variables.index").is_file()
export.begun["mine"] = contextlib.ExitStack()
{begin}
"""
    code = BEGINNING.format(begin=indented("import contextlib" + written), run=indented("assert 'mine' in export.begun"))
    refusal = export(code.replace("def begin(", "def begin_written("), post={"bad": {"kind": "bad"}})
    assert versions(tmp_path) == exported
    assert exported or told(refusal) == f"post.bad ({ACME}): has no room"


def test_bytes_that_a_step_changes_behind_a_second_name_get_no_digest(export, tmp_path):
    body = (
        "os.link(weights, version.parent / 'second')\n"  # the snapshot does not compare the time of the last change of status
        "before = weights.stat()\n"
        "with weights.open('r+b') as file: file.write(b'junk')\n"
        "os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))"
    )
    post = {kind: {"kind": kind} for kind in ("verify", "bad", "manifest")}
    refusal = export(STEP.format(phase="SEAL", body=indented(body)), post=post)
    what = "was changed after its bytes were compared with the checkpoint's"
    assert told(refusal) == f"variables.data-00000-of-00001: {what} (post.manifest); export again, without what changes it"
    assert versions(tmp_path) == []


PUBLISHING = {
    "raises when it publishes": ("raise OSError('refused')", "raised OSError: refused"),
    "cannot reach its server": (
        "raise ConnectionRefusedError(111, 'Connection refused')",
        "network: connection refused; see whether the address is right and can be reached from here",
    ),
    "has too many files open": ("raise OSError(24, 'Too many open files')", "raised OSError: [Errno 24] Too many open files"),
    "writes into what is published": (
        "(version / 'published').touch()",
        f"added published; a step of phase PUBLISH {NO_TOUCH}",
    ),
    "hangs when it publishes": (
        "time.sleep(60)",
        "ran longer than its timeout of 0.2 s; set post.bad.timeout higher, or to null for no limit",
    ),
}


@pytest.mark.parametrize("way", PUBLISHING)
def test_a_version_that_was_committed_stays(way, export, tmp_path):
    body, text = PUBLISHING[way]
    code = STEP.format(phase="PUBLISH", body=indented(body))
    refusal = export(code, post={"bad": {"kind": "bad", "timeout": 0.2}})
    assert told(refusal) == f"post.bad ({ACME}): {text}; version 1 stays in {tmp_path}/exports/toy/1"
    assert (refusal.report.status, refusal.report.version) == ("failed", 1)
    assert versions(tmp_path) == ["1"]


def test_a_step_that_refuses_without_saying_who_it_is(export):
    code = STEP.format(phase="VERIFY", body=indented("raise StepFailed(Problem('signatures.a', 'is slow', 'make it fast'))"))
    assert told(export(code, post={"check": {"kind": "bad"}})) == "signatures.a: is slow (post.check); make it fast"


def test_a_step_that_makes_a_version_of_its_own(export, tmp_path):
    body = "(export.plan.export_dir / '7').mkdir()\n(export.plan.export_dir / 'notes').mkdir()"
    report = export(STEP.format(phase="VERIFY", body=indented(body)), post={"bad": {"kind": "bad"}})
    assert report.warnings[-1] == (
        f"post.bad: while it ran, version 7 appeared in {tmp_path}/exports/toy, and a server may serve it; "
        "if no other export made it, the step did"
    )


def test_a_version_that_another_export_was_writing_is_no_surprise(export):
    body = """
staging = export.plan.export_dir / '.7.staging'
if staging.exists():
    staging.rename(export.plan.export_dir / '7')
else:
    staging.mkdir()
"""
    code = STEP.format(phase="VERIFY", body=indented(body))
    assert export(code, post={"first": {"kind": "bad"}, "second": {"kind": "bad"}}).warnings == []


RELEASED = "released = threading.Event()\n"


def release(name):
    """End acme's thread, which has waited for that."""
    sys.modules["acme"].released.set()
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join()


def test_a_step_that_leaves_a_thread(export):
    body = "threading.Thread(target=released.wait, args=(60,), name='upload', daemon=True).start()"
    report = export(RELEASED + STEP.format(phase="VERIFY", body=indented(body)), post={"bad": {"kind": "bad"}})
    release("upload")
    assert report.warnings == ["post.bad: left the thread 'upload' running"]


def test_a_thread_that_writes_later_is_suspected(export, tmp_path):
    body = """
        if self.timeout is not None:
            second.set()
            while not (version / "late").exists():
                time.sleep(0.01)
            return
        def later():
            second.wait()
            (version / "late").touch()
            released.wait(60)
        threading.Thread(target=later, name="later", daemon=True).start()
    """
    post = {"first": {"kind": "bad"}, "second": {"kind": "bad", "timeout": 60}}
    code = RELEASED + "second = threading.Event()\n" + STEP.format(phase="VERIFY", body=body)
    refusal = export(code, post=post)
    release("later")
    assert told(refusal) == (
        f"post.second ({ACME}): added late; a step of phase VERIFY {NO_TOUCH} "
        "(or did it post.first, whose thread 'later' still runs?)"
    )


def test_a_step_that_walks_away(export, tmp_path):
    report = export(STEP.format(phase="VERIFY", body=indented("os.chdir('/')")), post={"bad": {"kind": "bad"}})
    assert report.warnings == ["post.bad: left the working directory for another; it was set back"]
    assert Path.cwd() == tmp_path


def test_what_is_printed_at_import_and_in_hooks_is_no_answer(install, capsys):
    install("acme", IMPORTS + "print('hello')\n@hookimpl\ndef exportkit_post_steps():\n    print('again')\n    return []")
    load_plugins()
    assert tuple(capsys.readouterr()) == ("", "hello\nagain\n")


def test_an_observer_that_raises_changes_nothing(export, caplog):
    report = export("@hookimpl\ndef exportkit_export_finished(report): 1 / 0")
    assert report.status == "exported"
    assert list(map(told, caplog.messages)) == [
        f"{ACME}: exportkit_export_finished raised ZeroDivisionError: division by zero; {OFF}"
    ]


def test_an_observer_that_exits_changes_nothing(export, caplog):
    report = export("@hookimpl\ndef exportkit_export_finished(report): sys.exit(1)")
    assert report.status == "exported"
    assert list(map(told, caplog.messages)) == [f"{ACME}: exportkit_export_finished raised SystemExit: 1; {OFF}"]


def test_control_c_in_a_step_leaves_no_version(install, toy, tmp_path):
    install("acme", IMPORTS + STEP.format(phase="VERIFY", body=indented("raise KeyboardInterrupt")))
    plan = exportkit.plan(toys.config(toy, tmp_path, post={"bad": {"kind": "bad"}}))
    with pytest.raises(KeyboardInterrupt):
        exportkit.run(plan)
    assert versions(tmp_path) == []


@pytest.mark.parametrize(
    ("timeout", "text"),
    [
        (0, "is 0; write more than 0, at most 1,000,000, or null"),
        (-1, "is -1; write more than 0, at most 1,000,000, or null"),
        (1e7, "is 1e+07; write more than 0, at most 1,000,000, or null"),
        (float("nan"), "is nan; write a finite number, or null"),
        (float("inf"), "is inf; write a finite number, or null"),
    ],
)
def test_a_timeout_is_some_time(timeout, text, export):
    code = STEP.format(phase="VERIFY", body=indented("..."))
    assert told(export(code, post={"bad": {"kind": "bad", "timeout": timeout}})) == f"post.bad.timeout: {text}"


def test_a_hard_link_to_a_file_is_no_change(export, tmp_path):
    code = STEP.format(phase="PUBLISH", body=indented("os.link(weights, export.scratch.parent / f'published-{os.getpid()}')"))
    code = code.replace("export.scratch.parent", f"Path({str(tmp_path)!r})")
    assert export(code, post={"bad": {"kind": "bad"}}).status == "exported"


def with_method(name):
    """A source one of whose methods raises."""
    method = f"    def {name}(self): json.loads(words())\n\n"
    return SOURCE.format(body="        ...").replace("    def build", f"{method}    def build")


RAISING = {
    "in a step": (STEP.format(phase="VERIFY", body="        json.loads(words())"), {"post": {"bad": {"kind": "bad"}}}),
    "in a step with a timeout": (
        STEP.format(phase="VERIFY", body="        json.loads(words())"),
        {"post": {"bad": {"kind": "bad", "timeout": 60.0}}},
    ),
    "in build": (SOURCE.format(body="        json.loads(words())"), {"source": {"kind": "bad"}}),
    "in preview": (with_method("preview"), {"source": {"kind": "bad"}}),
    "in a policy": ("@hookimpl\ndef exportkit_check_plan(plan): json.loads(words())", {}),
    "as it is made": (with_method("__post_init__"), {"source": {"kind": "bad"}}),
}


@pytest.mark.parametrize("way", RAISING)
def test_an_exception_names_its_innermost_line_in_the_plugin(way, export, toy, tmp_path):
    code, chosen = RAISING[way]
    if chosen.get("source"):
        chosen = {"source": {**chosen["source"], "checkpoint": toy}}
    code = f"import json\ndef words():\n    return json\n{code}"
    lines = (IMPORTS + code).splitlines()
    number = 1 + next(number for number, line in enumerate(lines) if "json.loads(words())" in line)
    refusal = str(export(code, **chosen))
    assert "raised TypeError: the JSON object must be str, bytes or bytearray, not module (" in refusal
    assert f"{os.sep}acme.py:{number})" in refusal
