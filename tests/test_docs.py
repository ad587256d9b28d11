"""The README, run from top to bottom as a user would: its files written, its commands run, its output met."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^# (\S+\.(?:yaml|py))$", re.MULTILINE)
# what makes the environment that the tests run in already
SETUP = ("python3 -m venv", ".venv/bin/pip install")


def blocks():
    return BLOCK.findall((ROOT / "README.md").read_text())


def commands(block):
    """A console block's commands, each with the exit code and the output that the README promises."""
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


@pytest.mark.slow
def test_readme(tmp_path):
    bin = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}", "COLUMNS": "160"}
    for kind, text in blocks():
        if kind in ("yaml", "python") and (name := FILE.search(text)):
            path = tmp_path / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif kind == "python":
            subprocess.run([sys.executable, "-c", text], cwd=tmp_path, check=True)
        elif kind == "console":
            for command, code, promised in commands(text):
                if not command.startswith(SETUP):
                    run(command.replace(".venv/bin/", ""), code, promised, tmp_path, environment)


def run(command, code, promised, directory, environment):
    ran = subprocess.run(command, shell=True, cwd=directory, env=environment, capture_output=True, text=True)
    printed = ran.stdout + ran.stderr
    assert ran.returncode == code, f"{command}\n{printed}"
    assert meets(promised, printed), f"{command}\n--- promised\n{promised}\n--- printed\n{printed}"


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
