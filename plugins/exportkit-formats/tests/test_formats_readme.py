"""The README's blocks, run as a reader would, on the example that exportkit ships."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BIN = Path(sys.executable).parent


@pytest.mark.slow
@pytest.mark.needs("ai_edge_litert", "tf2onnx", "onnxruntime", "openvino")
def test_readme(tmp_path):
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "160"}

    def run(command, code=0):
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    run("python -m exportkit.examples.mnist_mlp")
    for kind, block in re.findall(r"^```(console|python)\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL):
        if kind == "python":
            run(f"python - <<'END'\n{block}END")
        for command, code, promised in _commands(block) if kind == "console" else ():
            _meets(promised, run(command, code))


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
