"""The README and the author's guide, run as a reader would: their files written, their commands run, their output met."""

import ast
import inspect
import os
import pty
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from contextlib import suppress
from pathlib import Path

import pytest
import trained

import exportkit.plugin as door
from exportkit.testing import BindingSuite, SourceSuite, StepSuite

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "plugins" / "README.md"
ENGINES = ROOT / "conf" / "hydra" / "launcher" / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^# (\S+\.(?:yaml|py))$", re.MULTILINE)
# what makes the environment that the tests run in already
SETUP = ("python3 -m venv", ".venv/bin/pip install")
SPARE = "forks_workers"
FORKS_WORKERS = """\
from exportkit import processes
from exportkit.core.capi import library

library()
processes.reserve("exportkit.core.preload")
"""


def blocks(page=ROOT / "README.md", sections=None):
    """The blocks of a page, or of its first sections."""
    parts = re.split("^## ", page.read_text(), flags=re.MULTILINE)
    return BLOCK.findall("".join(parts if sections is None else parts[: sections + 1]))


def commands(block):
    """A console block's commands, each with the exit code and the output that the page promises."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        code = re.search(r"\s+# exits (\d)$", command)
        yield command[: code.start()] if code else command, int(code[1]) if code else 0, output


def meets(promised, printed):
    """Whether `printed` holds the promised lines in their order; ``…`` stands for anything, alone for any lines."""
    pattern = r"[^\n]*\n".join(
        "(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) for line in promised.splitlines()
    )
    return re.search(pattern.replace("(?:.*\n)*?[^\\n]*\\n", "(?:.*\n)*?"), printed) is not None


def follow(page, directory, bin, sections=None, done=SETUP, **variables):
    """Do in `directory` what `page`, or its first sections, say, with the programs in `bin`, but for what is done."""
    environment = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "COLUMNS": "160", **variables}
    for kind, text in blocks(page, sections):
        if kind in ("yaml", "python") and (name := FILE.search(text)):
            path = directory / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif kind == "python":
            lean = {**environment, **trained.WITHOUT_KERAS}
            subprocess.run([bin / "python", "-c", text], cwd=directory, env=lean, check=True)
        elif kind == "console":
            for command, code, promised in commands(text):
                if not command.startswith(done):
                    more = {} if "keras" in command else trained.WITHOUT_KERAS
                    run(command.replace(".venv/bin/", ""), code, promised, directory, {**environment, **more})


def run(command, code, promised, directory, environment):
    """Run a command as a reader does: at a terminal, one that can only print."""
    ours, theirs = pty.openpty()
    streams = {"stdin": subprocess.DEVNULL, "stdout": theirs, "stderr": theirs}
    with subprocess.Popen(
        command, shell=True, cwd=directory, env={**environment, "TERM": "dumb", "LINES": "50"}, **streams
    ) as running:
        os.close(theirs)
        printed = shown(ours).replace("\r\n", "\n")
    assert running.returncode == code, f"{command}\n{printed}"
    assert meets(promised, printed), f"{command}\n--- promised\n{promised}\n--- printed\n{printed}"


def shown(terminal):
    """All that is written to a terminal until everybody has closed it."""
    with open(terminal, "rb", buffering=0) as file:
        text = b""
        with suppress(OSError):  # Linux's way to say that it is closed
            while more := file.read(1 << 16):
                text += more
    return text.decode()


@pytest.fixture
def layer(tmp_path):
    """The programs of an environment on top of this one, in which a test may install what it likes, without a network."""
    home = tmp_path / "environment"
    venv.create(home)
    paths = sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})
    below = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    Path(paths["purelib"], "below.pth").write_text(below)
    for name in ("pip", "pytest", "exportkit"):
        program = Path(paths["scripts"], name)
        program.write_text(f'#!/bin/sh\nexec "{paths["scripts"]}/python" -m {name} "$@"\n')
        program.chmod(0o755)
    Path(paths["purelib"], f"{SPARE}.py").write_text(FORKS_WORKERS)
    return Path(paths["scripts"])


@pytest.fixture
def digits(shared, tmp_path):
    """The command that the pages begin with, which prints nothing that they promise: it was run in an empty directory."""
    shutil.copytree(trained.digits(shared), tmp_path, dirs_exist_ok=True)
    return "python -m exportkit.examples.mnist_mlp"


@pytest.mark.slow
def test_readme(tmp_path, digits, breadth):
    done = (*SETUP, f".venv/bin/{digits}")
    follow(ROOT / "README.md", tmp_path, Path(sys.executable).parent, breadth(2, None), done)


@pytest.mark.slow
def test_guide(tmp_path, layer, breadth):
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "false", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    quick = {"PYTEST_ADDOPTS": f"-p {SPARE}"}  # a plugin's suites fork their workers, as ours do
    place = tmp_path / "empty"
    place.mkdir()
    follow(GUIDE, place, layer, breadth(1, None), EXPORTKIT=str(ROOT), **offline, **quick)


@pytest.mark.slow
@pytest.mark.needs("ray", "submitit")
def test_the_page_of_engines(tmp_path, digits):
    follow(ENGINES, tmp_path, Path(sys.executable).parent, done=(digits,))


def test_the_guide_counts_the_checks():
    suites = (SourceSuite, StepSuite, BindingSuite)
    sources, steps, bindings = (sum(name.startswith("test_") for name in dir(suite)) for suite in suites)
    assert f"{sources} checks of a source, {steps} of a step and {bindings} of a\nbinding" in GUIDE.read_text()


def test_the_guide_calls_every_function_of_the_door():
    """With arguments that its signature takes."""
    calls = {}
    for text in re.findall(r"`([a-z_]+\([^`]*\))`", GUIDE.read_text()):
        call = ast.parse(text, mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            calls[call.func.id] = call
    functions = {name: getattr(door, name) for name in door.__all__ if inspect.isfunction(getattr(door, name))}
    assert functions.keys() <= calls.keys()
    for name, function in functions.items():
        inspect.signature(function).bind(*calls[name].args, **{word.arg: word.value for word in calls[name].keywords})


def test_the_make_targets_are_what_the_readme_says_they_stand_for():
    """`make demo` cannot run here without making the environment anew; its lines are those of the plain block."""
    makefile = (ROOT / "Makefile").read_text()
    variables = {"$(BIN)": ".venv/bin", "$(PYTHON)": "python3", "$(VENV)": ".venv"}
    for name, value in variables.items():
        makefile = makefile.replace(name, value)
    plain = next(list(commands(text)) for _, text in blocks() if "$ python3 -m venv" in text)
    lines = [line.strip() for line in makefile.splitlines()]
    assert [command for command, _, _ in plain if command not in lines] == []


def test_what_the_blocks_promise_is_really_compared():
    assert meets("a\n…\nd 0.9…\n", "a\nb\nc\nd 0.98\n")
    assert not meets("a\n…\ne\n", "a\nb\nc\nd\n")
    assert not meets("a b\n", "a c\n")
