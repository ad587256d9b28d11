"""The page of all config keys against the classes that read them: the same keys, the same defaults."""

import re
from dataclasses import MISSING, Field, fields
from pathlib import Path

import pytest

from exportkit import spec
from exportkit.operations.builtin import OPERATIONS
from exportkit.operations.parse_example import Feature
from exportkit.registry import load_plugins

PAGE = (Path(__file__).parents[1] / "conf" / "README.md").read_text()
SECTIONS = {
    "The root": spec.Config,
    "report": spec.ReportTo,
    "allow": spec.Allow,
    **spec.BINDINGS,
    **OPERATIONS,
    "replacement": spec.Replacement,
    "feature": Feature,
    "signatures": spec.Signature,
    "meta_graphs": spec.MetaGraph,
    "weights": spec.Weights,
    "names": spec.NameRule,
    "random": spec.Random,
}
SHORTENED = {
    ("The root", "weights"),
    ("The root", "allow"),
    ("The root", "report"),
}  # mappings that have a section of their own


def rows(section):
    """The first two cells of each row of the table below a heading."""
    (text,) = re.findall(rf"^#+ {section}$\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return [tuple(cell.strip() for cell in row) for row in re.findall(r"^\| `([^`]+)` \|([^|]*)\|", text, re.MULTILINE)]


def default(field: Field):
    if field.default is MISSING and field.default_factory is MISSING:
        return ""
    return f"`{flow(field.default if field.default is not MISSING else field.default_factory())}`"


def flow(value):
    """A default as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or "''"


@pytest.mark.parametrize("section", SECTIONS)
def test_a_table_has_the_keys_and_defaults_of_its_class(section):
    declared = [(f.name, "`{…}`" if (section, f.name) in SHORTENED else default(f)) for f in fields(SECTIONS[section])]
    assert rows(section) == declared


def test_the_page_names_the_keys_of_the_packaged_sources():
    sources = load_plugins().sources
    named = rows("source")
    assert [kind for kind, _ in named] == ["meta_graph", "saved_model", "keras", "frozen_graph", "graph_builder", "encoder"]
    for kind, keys in named:
        assert re.findall(r"`(\w+)`", keys) == [f.name for f in fields(sources[kind]) if f.name != "kind"]


def test_the_readme_leads_to_the_page():
    assert "](conf/README.md)" in (Path(__file__).parents[1] / "README.md").read_text()
