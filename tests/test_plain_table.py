"""Tables for files and pipes: what is printed without rich is what rich prints."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exportkit.cli import tables

CELLS = st.text(st.sampled_from("ab →─é\u0301你\t\n\x1b[]:smile"), max_size=8) | st.just("x" * 90)


def printed(capsys, monkeypatch, plain, show):
    """What `show` prints, and whether rich laid it out; by rich alone unless `plain`."""
    capsys.readouterr()
    used = []
    with monkeypatch.context() as patch:
        if not plain:
            patch.setattr(tables, "plain_table", lambda *_: None)
            patch.setattr(tables, "is_plain", lambda *_: False)
        console = tables._console
        patch.setattr(tables, "_console", lambda: used.append(1) or console())
        show()
    return capsys.readouterr().out, bool(used)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_table_is_printed_as_rich_prints_it(capsys, monkeypatch, data):
    monkeypatch.delenv("COLUMNS", raising=False)
    width = data.draw(st.integers(1, 4))
    row = st.lists(CELLS, min_size=width, max_size=width)
    title, columns, rows = data.draw(CELLS), data.draw(row), data.draw(st.lists(row, max_size=4))
    once = data.draw(st.integers(0, width))
    found, expected = (
        printed(capsys, monkeypatch, plain, lambda: tables.table(title, columns, rows, once)) for plain in (True, False)
    )
    assert found[0] == expected[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(words=CELLS)
def test_any_prose_is_printed_as_rich_prints_it(capsys, monkeypatch, words):
    monkeypatch.delenv("COLUMNS", raising=False)
    found, expected = (printed(capsys, monkeypatch, plain, lambda: tables.text(words)) for plain in (True, False))
    assert found[0] == expected[0]


@pytest.mark.parametrize(
    ("cell", "environment", "by_rich"),
    [("checked", {}, False), ("a → b", {}, False), ("a\nb", {}, True), ("你", {}, True), ("x" * 200, {}, True)]
    + [("checked", {name: "100"}, True) for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE")],
)
def test_rich_lays_out_what_is_not_plain(capsys, monkeypatch, cell, environment, by_rich):
    monkeypatch.delenv("COLUMNS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    show = lambda: tables.table("Plan", ["stage", ""], [["x", tables.Styled(cell, "green")]])  # noqa: E731
    assert printed(capsys, monkeypatch, True, show)[1] == by_rich
