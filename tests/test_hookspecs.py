"""Every hook is documented by an example that runs; what the examples give is what exportkit takes."""

import inspect
import logging
import re
import sys
import textwrap
from types import ModuleType, SimpleNamespace

import pytest
import toys

from exportkit import hookspecs, run
from exportkit.errors import ConfigError
from exportkit.planning.plan import plan
from exportkit.registry import load_plugins
from exportkit.report import ExportReport

HOOKS = [name for name in vars(hookspecs) if name.startswith("exportkit_")]


def example(hook):
    """The example in a hook's docstring, as a plugin module."""
    code = textwrap.dedent(inspect.getdoc(getattr(hookspecs, hook)).split("Example:\n", 1)[1])
    module = ModuleType(f"example_of_{hook}")
    exec(compile(code, module.__name__, "exec"), vars(module))
    return module


def test_the_hooks_are_those_of_the_design():
    assert HOOKS == [
        "exportkit_model_sources",
        "exportkit_post_steps",
        "exportkit_bindings",
        "exportkit_conf_packages",
        "exportkit_commands",
        "exportkit_check_plan",
        "exportkit_export_finished",
    ]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_neither_first_result_nor_historic(hook):
    options = getattr(hookspecs, hook).exportkit_spec
    assert (options["firstresult"], options["historic"]) == (False, False)


@pytest.fixture(autouse=True)
def _acme_exports(tmp_path, monkeypatch):
    """The package whose configs the example contributes."""
    conf = tmp_path / "site/acme_exports/conf"
    (conf / "experiment").mkdir(parents=True)
    for place in (conf.parent, conf):
        (place / "__init__.py").touch()
    (conf / "experiment/acme_nightly.yaml").write_text("# @package _global_\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield
    for name in ("acme_exports", "acme_exports.conf"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("hook", HOOKS)
def test_an_example_implements_its_hook(hook):
    plugins = load_plugins({"example": example(hook)})
    assert "example" in [provider.plugin for provider, _ in plugins.hooks[hook]]


def test_model_sources(tmp_path):
    plugins = load_plugins({"example": example("exportkit_model_sources")})
    prefix = toys.saved(tmp_path, toys.dense)
    signatures = {"serving_default": {"inputs": {"x": "x"}, "outputs": {"y": "y"}}}
    changes = {
        "source": {"kind": "doubled", "checkpoint": prefix},
        "bindings": {"x": "x:0", "y": "y:0"},
        "signatures": signatures,
    }
    report = run(plan(toys.config(prefix, tmp_path, **changes), plugins), plugins)
    assert report.status == "exported"


def test_post_steps(tmp_path):
    module = example("exportkit_post_steps")
    step = load_plugins({"example": module}).steps["licence"](text="MIT")
    assert step.run(SimpleNamespace(directory=tmp_path)) is None
    assert (tmp_path / "assets.extra/LICENSE").read_text() == "MIT"


def test_conf_packages():
    plugins = load_plugins({"example": example("exportkit_conf_packages")})
    assert plugins.conf_packages[-1] == "acme_exports.conf"
    assert plugins.presets["experiment/acme_nightly"].plugin == "example"


def test_commands(tmp_path, capsys):
    for name in ("1", "12", ".3.staging"):
        (tmp_path / "base" / name).mkdir(parents=True)
    plugins = load_plugins({"example": example("exportkit_commands")})
    assert plugins.run_command("count", [str(tmp_path / "base")]) == 0
    assert capsys.readouterr().out == "2\n"
    assert plugins.commands["count"]().complete(["--"]) == ["--help"]


@pytest.mark.parametrize("owned", [True, False])
def test_check_plan(owned, checkpoint):
    config = {
        "name": "m",
        "source": {"kind": "meta_graph", "checkpoint": checkpoint("averaged").prefix},
        "bindings": {"x": "x:0", "y": "y:0"},
        "signatures": {"serving_default": {"inputs": {"x": "x"}, "outputs": {"y": "y"}}},
        "vars": {"owner": "team"} if owned else {},
    }
    plugins = load_plugins({"example": example("exportkit_check_plan")})
    if owned:
        assert plan(config, plugins).name == "m"
        return
    with pytest.raises(ConfigError) as caught:
        plan(config, plugins)
    assert str(caught.value) == (
        "vars.owner: every model needs an owner (plugin example of this process); set vars.owner to a team"
    )


def test_export_finished(caplog):
    plugins = load_plugins({"example": example("exportkit_export_finished")})
    with caplog.at_level(logging.INFO, "audit"):
        assert (
            list(plugins.notify("exportkit_export_finished", report=ExportReport(name="m", status="exported", version=3))) == []
        )
    assert caplog.messages == ["m 3 exported"]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_docstring_begins_with_a_sentence(hook):
    assert re.match(r"[A-Z][^\n]+\.\s", inspect.getdoc(getattr(hookspecs, hook)))
