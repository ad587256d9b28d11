"""What a stranger's text does to a terminal: nothing. Names in files and the output of processes are escaped."""

import ast
import logging
import sys
from pathlib import Path

import pytest

from exportkit import cli
from exportkit.cli import channel, print_problems, single, tables
from exportkit.errors import ConfigError, Problem
from exportkit.printable import Output, PrintableStream, printable, shown
from exportkit.processes import Death
from exportkit.processes.death import Cause, last_line
from exportkit.protos import SavedModel

PACKAGE = Path(cli.__file__).parents[1]
HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\u202eevil\u2066\r\x08\x00\udcff"
ESCAPED = r"\x1b[2J\x1b]0;title\x07\x9b31m\u202eevil\u2066\r\x08\x00\xff"


def is_harmless(text):
    return all(char.isprintable() or char in "\n\t" for char in text)


def test_what_a_terminal_would_obey_is_escaped():
    assert printable(HOSTILE) == ESCAPED
    assert printable(ESCAPED) == ESCAPED
    assert printable("plain é 漢字 👍\tok") == "plain é 漢字 👍\tok"
    assert printable("a\nb\u2028c") == r"a\nb\u2028c"
    assert printable("a\nb", "\n") == "a\nb"


def test_every_character_is_printable_afterwards():
    assert is_harmless(printable("".join(map(chr, range(0x110000)))))


def test_the_output_of_a_process_loses_colours_and_keeps_lines():
    assert shown("\x1b[1;32mok\x1b[0m\r\n10%\r20%\rdone\n") == "ok\n10%\n20%\ndone\n"
    assert shown("\x1b]52;c;ZXZpbA==\x07\x1b[6n") == r"\x1b]52;c;ZXZpbA==\x07\x1b[6n"


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_pieces_are_as_the_whole(size):
    text = "a\x1b[1;32mb\x1b[0mc\r\nd\re\x1b[2Jf\x1b"
    output = Output()
    pieces = [output.piece(text[at : at + size]) for at in range(0, len(text), size)]
    assert "".join([*pieces, output.piece("", last=True)]) == shown(text) == r"abc" + "\nd\ne" + r"\x1b[2Jf\x1b"


def test_a_sequence_that_never_ends_is_not_held_back():
    output = Output()
    assert output.piece("\x1b[" + "1" * 1000) + output.piece("", last=True) != ""
    assert len(output._held) == 0


def test_a_problem_is_one_printable_line():
    assert str(Problem(HOSTILE, "has\na newline", "do")) == ESCAPED.replace(r"\r", " ") + ": has a newline; do"
    assert str(ConfigError(Problem("x", HOSTILE), Problem("y", "b"))).splitlines() == [
        "x: " + ESCAPED.replace(r"\r", " "),
        "y: b",
    ]


def test_what_is_printed_of_an_export_is_harmless(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    tables.line(f"exported {HOSTILE}\nnext")
    tables.text(HOSTILE, "yellow")
    tables.table(HOSTILE, ["a", "b"], [(HOSTILE, tables.Styled(HOSTILE, "red"))])
    tables._grid([("variables", HOSTILE)])
    print_problems(f"one {HOSTILE}\ntwo")
    printed = capsys.readouterr()
    assert is_harmless(printed.out) and is_harmless(printed.err)
    assert printed.out.startswith(f"exported {ESCAPED}\nnext\n")
    assert printed.out.count("evil") == 6
    assert printed.err.splitlines()[0] == "exportkit: 3 problems"  # a carriage return ends a line for splitlines


def test_the_last_line_of_a_log_is_harmless(tmp_path):
    (tmp_path / "log").write_bytes(b"first\n\x1b[31mlast \x1b]0;t\x07\xff\n")
    with open(tmp_path / "log", "rb") as log:
        death = Death(Cause.CRASHED, "died", last_line(log))
    assert death.describe() == r"died; its last line: last \x1b]0;t\x07\ufffd".replace(r"\ufffd", "\ufffd")


def test_the_output_of_an_export_is_shown_harmless(tmp_path, capsys):
    with single._shown(tmp_path / "log"):
        (tmp_path / "log").write_bytes(b"\x1b[32mgreen\x1b[0m\n50%\r100%\n\x1b]0;t\x07end")
    assert capsys.readouterr().err == "green\n50%\n100%\n" + r"\x1b]0;t\x07end"


def test_what_a_plugin_prints_or_logs_is_harmless(capsys, install):
    code = "import sys\nprint('a\\x1b[2J')\nprint('b\\x9b', file=sys.stderr)\nfrom exportkit.plugin import hookimpl\n"
    code += "@hookimpl\ndef exportkit_conf_packages():\n    print('c\\x1b]0;t')\n    return []\n"
    install("exportkit-loud", code)
    from exportkit.registry import load_plugins

    load_plugins()
    assert capsys.readouterr().err == r"a\x1b[2J" + "\n" + r"b\x9b" + "\n" + r"c\x1b]0;t" + "\n"
    stream = PrintableStream(sys.stderr)
    record = logging.LogRecord("acme", logging.WARNING, "", 0, "%s", (HOSTILE,), None)
    print(channel.PrintableFormatter("%(message)s").format(record), file=stream, end="")
    assert capsys.readouterr().err == ESCAPED


def test_names_in_a_graph_are_shown_harmless(tmp_path, capsys):
    saved_model = SavedModel()
    meta = saved_model.meta_graphs.add()
    meta.meta_info_def.tags.append("serve\x1b[2J")
    name = "x"
    meta.graph_def.node.add(name=name, op="Placeholder").attr["dtype"].type = 1
    meta.graph_def.node.add(name="y", op="Identity", input=[name]).attr["T"].type = 1
    signature = meta.signature_def["by\x1b]0;t\x07"]
    signature.method_name = "\x1b[31m"
    signature.inputs["in\x9b"].name, signature.inputs["in\x9b"].dtype = f"{name}:0", 1
    signature.outputs["out\r"].name, signature.outputs["out\r"].dtype = "z\u2066:0", 1
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    for arguments in (["inspect", "--all", "1"], ["verify", "--no-run", "1"]):
        cli.main(arguments)
        printed = capsys.readouterr()
        assert is_harmless(printed.out) and is_harmless(printed.err)
        assert r"by\x1b]0;t\x07" in printed.out and r"serve\x1b[2J" in printed.out


# Every place that prints


SINKS = {"print", "Text"}
PLACES = {
    "cli/__init__.py": {"_version", "print_line"},
    "cli/completion.py": {"answer"},
    "cli/choices.py": {"show_help"},
    "cli/progress.py": {"_moving"},
    "cli/single.py": {"_shown"},
    "cli/sweep/view.py": {"_render", "preparing"},
    "cli/tables.py": {"_grid", "_out", "_print", "_styled", "table"},
}
"""The functions that print, each of which was looked at: what it prints is exportkit's own text, or printable."""


def printing(path):
    """The functions of a module that write to a terminal, by the name of the outermost one."""
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef):
            continue
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            if name in SINKS or name.endswith((".add_row", ".add_task", "console.print", "stdout.write", "stderr.write")):
                yield function


def test_nothing_is_printed_elsewhere():
    found = {}
    for path in sorted([*PACKAGE.glob("cli/**/*.py"), *PACKAGE.glob("launcher/*.py")]):
        if names := {function.name for function in printing(path)} - {"render", "show"}:
            found[path.relative_to(PACKAGE).as_posix()] = names
    assert found == PLACES
