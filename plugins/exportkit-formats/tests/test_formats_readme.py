"""The README's blocks, run as a reader would, on the example that exportkit ships."""

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BIN = Path(sys.executable).parent


@pytest.mark.slow
@pytest.mark.needs("ai_edge_litert", "tf2onnx", "onnxruntime", "openvino")
def test_readme(tmp_path):
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "160", "LINES": "50", "TERM": "dumb"}

    def run(command, code=0):
        """Run a command at a terminal, where the whole report is shown."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(command, shell=True, cwd=tmp_path, env=environment, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            with open(ours, "rb", buffering=0) as terminal:
                printed = b"".join(_pieces(terminal)).decode().replace("\r\n", "\n")
        assert process.returncode == code, printed
        return printed

    run("TF_USE_LEGACY_KERAS=1 python -m exportkit.examples.mnist_mlp")  # TensorFlow's import leaves Keras out: half its time
    for kind, block in re.findall(r"^```(console|python)\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL):
        if kind == "python":
            run(f"python - <<'END'\n{block}END")
        for command, code, promised in _commands(block) if kind == "console" else ():
            _meets(promised, run(command, code))


def _pieces(terminal):
    """What is printed, until the last program that could print has ended: Linux says so with an error."""
    with suppress(OSError):
        while piece := terminal.read(1 << 16):
            yield piece


def _commands(block):
    """Each command but those that install, the exit code that is promised, and the output."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, promised = part.partition("\n")
        code = re.search(r"\s+# exits (\d)$", command)
        if not command.startswith("pip "):
            yield command, int(code[1]) if code else 0, promised


def _meets(promised, printed):
    lines = [line for line in promised.splitlines() if line != "…"]
    found = [
        any(re.fullmatch(".*".join(map(re.escape, line.split("…"))), said) for said in printed.splitlines()) for line in lines
    ]
    assert all(found), f"--- promised\n{promised}\n--- printed\n{printed}"
