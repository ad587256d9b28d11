"""Discovery of plugins: order, attribution, clashes, and what a broken one does. Distributions are folders on sys.path."""

import re
import sys
from types import SimpleNamespace

import pytest

from exportkit.cli import main
from exportkit.errors import PluginError
from exportkit.plugin import hookimpl
from exportkit.registry import Provider, load_plugins

STEP = """
from dataclasses import dataclass
from exportkit.plugin import Phase, PostStep, hookimpl

@dataclass(kw_only=True)
class Step(PostStep):
    kind: str = "{kind}"
    phase = Phase.VERIFY
    def run(self, export): ...

@hookimpl
def exportkit_post_steps():
    return [Step]
"""

COMMAND = """
from exportkit.plugin import Command, hookimpl

class Greet(Command):
    name = "{name}"
    help = "greet somebody"
    def run(self, arguments): return 0

@hookimpl
def exportkit_commands():
    return [Greet]
"""


def refusal(function, *args):
    with pytest.raises(PluginError) as caught:
        function(*args)
    return str(caught.value)


def hooks(**implementations):
    """A plugin object that implements hooks by the functions given."""
    return SimpleNamespace(**{f"exportkit_{name}": hookimpl(function) for name, function in implementations.items()})


def test_built_ins_come_in_by_the_same_door(plugins):
    sources = {kind: str(plugins.providers[cls]) for kind, cls in plugins.sources.items()}
    assert {kind: text.rsplit(" ", 1)[0] for kind, text in sources.items()} == {
        "encoder": "plugin encoder of exportkit",
        "graph_builder": "plugin graph_builder of exportkit",
        "meta_graph": "plugin meta_graph of exportkit",
        "saved_model": "plugin saved_model of exportkit",
        "keras": "plugin keras of exportkit",
        "frozen_graph": "plugin frozen_graph of exportkit",
    }


def test_a_manager_for_each_load():
    first, second = load_plugins(), load_plugins({"mine": hooks(conf_packages=lambda: ["exportkit.conf.signature"])})
    assert "exportkit.conf.signature" in second.conf_packages
    assert "exportkit.conf.signature" not in first.conf_packages
    assert "exportkit.conf.signature" not in load_plugins().conf_packages


def test_an_installed_distribution_is_attributed(install):
    install("acme-steps", STEP.format(kind="acme"), version="3.1")
    plugins = load_plugins()
    assert plugins.providers[plugins.steps["acme"]] == Provider("acme-steps", "acme-steps", "3.1")


def test_the_order_of_installation_does_not_matter(install):
    for name in ("zebra", "aardvark"):
        install(name, f"from exportkit.plugin import hookimpl\n@hookimpl\ndef exportkit_conf_packages(): return ['{name}']\n")
    extra = hooks(conf_packages=lambda: ("json",))
    found = [p for p in load_plugins({"mine": extra}).conf_packages if p in ("zebra", "aardvark", "json")]
    assert found == ["aardvark", "json", "zebra"]


@pytest.mark.parametrize("named", ["acme-steps", "acme", "other, acme-steps"])
def test_a_plugin_can_be_switched_off_by_plugin_or_distribution(named, install, monkeypatch):
    install("acme-steps", "1 / 0", {"acme": "acme_steps"})
    monkeypatch.setenv("EXPORTKIT_DISABLE_PLUGINS", named)
    assert "acme" not in load_plugins().steps


OFF = "upgrade or uninstall it, or switch it off with EXPORTKIT_DISABLE_PLUGINS="


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("import no_such_module", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        (
            "from exportkit.plugin import hookimpl\n@hookimpl\ndef exportkit_post_step(): ...",
            "there is no hook 'exportkit_post_step'; did you mean exportkit_post_steps?",
        ),
        (
            "from exportkit.plugin import hookimpl\n@hookimpl\ndef exportkit_check_plan(plans): ...",
            "exportkit_check_plan takes 'plans', which the hook does not give; it gives plan, prepared",
        ),
        (
            "from exportkit.plugin import hookimpl\n@hookimpl\ndef exportkit_post_steps(): return 1 / 0",
            "exportkit_post_steps raised ZeroDivisionError: division by zero",
        ),
        (
            "from exportkit.plugin import hookimpl\n@hookimpl\ndef exportkit_post_steps(): return int",
            "exportkit_post_steps returned <class 'int'>, not a list of PostStep classes, each with a kind",
        ),
        (
            "from exportkit.plugin import hookimpl\n@hookimpl\ndef exportkit_model_sources(): return [int]",
            "exportkit_model_sources returned [<class 'int'>], not a list of ModelSource classes, each with a kind",
        ),
        (
            "from exportkit.plugin import hookimpl\n@hookimpl\ndef exportkit_conf_packages(): return 'a.conf'",
            "exportkit_conf_packages returned 'a.conf', not a list of package names",
        ),
        (
            STEP.format(kind="half").replace("phase = Phase.VERIFY", ""),
            "offers step 'half' without a phase; set phase to one of Phase",
        ),
        (
            STEP.format(kind="half").replace("def run", "def ran"),
            "offers step 'half' without run(); PostStep asks for it",
        ),
        (
            STEP.format(kind="half").replace("phase =", "size: 'NoSuchType' = 1\n    phase ="),
            "offers step 'half', whose fields cannot be read: NameError: name 'NoSuchType' is not defined",
        ),
        (
            STEP.format(kind="half").replace("@dataclass(kw_only=True)", "").replace("phase =", "size: int = 1\n    phase ="),
            "offers step 'half', which is not a dataclass; put @dataclass(kw_only=True) above it",
        ),
        (COMMAND.format(name="plan"), "offers command 'plan', and so does exportkit"),
        (
            COMMAND.format(name="Greet me"),
            "offers command 'Greet me', which cannot be a command's name; write a-z, 0-9, - and _, a letter first",
        ),
        (
            COMMAND.format(name="greet").replace("def run", "def ran"),
            "offers command 'greet' without run(); Command asks for it",
        ),
        (
            COMMAND.format(name="greet").replace("help =", "what ="),
            "offers command 'greet' without a help; set help to one line that says what it does",
        ),
        (
            COMMAND.format(name="greet").replace('"greet somebody"', '"greet\\nsomebody"'),
            "offers command 'greet' without a help; set help to one line that says what it does",
        ),
        (
            COMMAND.format(name="greet").replace("[Greet]", "[int]"),
            "exportkit_commands returned [<class 'int'>], not a list of Command classes, each with a name",
        ),
    ],
)
def test_a_broken_plugin_is_named_with_its_distribution(code, text, install):
    install("acme", code)
    said = re.sub(r" \(\S+/acme\.py:\d\)", "", refusal(load_plugins))
    assert said == f"plugin acme of acme 1.2: {text}; {OFF}acme"


def test_two_that_offer_one_kind_are_both_named(install):
    install("acme", STEP.format(kind="same"))
    install("beta", STEP.format(kind="same"))
    assert refusal(load_plugins) == (
        "plugin beta of beta 1.2: offers step 'same', and so does plugin acme of acme 1.2; " + OFF + "beta or acme"
    )


def test_two_that_offer_one_command_are_both_named(install):
    install("acme", COMMAND.format(name="greet"))
    install("beta", COMMAND.format(name="greet"))
    assert refusal(load_plugins) == (
        "plugin beta of beta 1.2: offers command 'greet', and so does plugin acme of acme 1.2; " + OFF + "beta or acme"
    )


def test_two_versions_of_one_distribution_are_reported(install, tmp_path, capsys):
    install("acme", STEP.format(kind="same"))
    other = tmp_path / "other" / "acme-1.3.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.3\n")
    assert load_plugins().warnings == []
    sys.path.append(str(other.parent))
    try:
        warning = f"acme 1.2 in {tmp_path / 'site'} is used, and not 1.3 in {tmp_path / 'other'}: uninstall one of them"
        assert load_plugins().warnings == [warning]
        assert main(["plugins"]) == 0
    finally:
        sys.path.remove(str(other.parent))
    assert f"warning: {warning}" in " ".join(capsys.readouterr().out.split())


def test_two_plugins_of_one_name_are_both_named(install):
    install("acme", STEP.format(kind="a"), {"tools": "acme"})
    install("beta", STEP.format(kind="b"), {"tools": "beta"})
    assert refusal(load_plugins) == (
        "plugin tools of beta 1.2: has the name of plugin tools of acme 1.2; " + OFF + "beta or acme"
    )


def test_one_plugin_that_is_found_twice_is_loaded_once(install, tmp_path, monkeypatch):
    install("acme", STEP.format(kind="acme"))
    copy = tmp_path / "site/acme-1.2.dist-info"
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / copy.name).symlink_to(copy)
    monkeypatch.syspath_prepend(tmp_path / "again")
    assert "acme" in load_plugins().steps


PLAN = SimpleNamespace(post={})  # as much of a plan as exportkit's own policies look at


def test_each_implementation_is_called_with_who_gave_the_answer():
    plugins = load_plugins({"b": hooks(check_plan=lambda plan: [plan, 1]), "a": hooks(check_plan=lambda: None)})
    answers = [(provider.plugin, answer) for provider, answer in plugins.call("exportkit_check_plan", plan=PLAN)]
    assert answers[-2:] == [("a", None), ("b", [PLAN, 1])]


def test_a_generator_that_raises_late_is_attributed():
    def late(plan):
        yield 1
        raise ValueError("late")

    plugins = load_plugins({"mine": hooks(check_plan=late)})
    text = refusal(lambda: list(plugins.call("exportkit_check_plan", plan=PLAN)))
    place = f"{__file__}:{late.__code__.co_firstlineno + 2}"
    assert text == f"plugin mine of this process: exportkit_check_plan raised ValueError: late ({place}); fix it"


def test_all_observers_are_told_whatever_one_raises():
    seen = []
    divide = lambda report: 1 / 0  # noqa: E731 - its line is named
    plugins = load_plugins({"a": hooks(export_finished=divide), "b": hooks(export_finished=lambda report: seen.append(report))})
    problems = list(map(str, plugins.notify("exportkit_export_finished", report="r")))
    assert seen == ["r"]
    assert problems == [
        "plugin a of this process: exportkit_export_finished raised ZeroDivisionError: division by zero "
        f"({__file__}:{divide.__code__.co_firstlineno}); fix it"
    ]


def test_a_long_text_of_a_plugin_is_shortened(install):
    install("acme", "raise ValueError('x' * 5000)")
    text = refusal(load_plugins)
    assert len(text) < 600
    assert "xxx…" in text


def test_two_presets_of_one_name_are_refused_as_two_kinds_are(install, tmp_path, monkeypatch):
    for name in ("acme", "zeta"):
        (tmp_path / f"{name}_conf/experiment").mkdir(parents=True)
        (tmp_path / f"{name}_conf/experiment/nightly_eu.yaml").touch()
        install(
            name, f"from exportkit.plugin import hookimpl\n@hookimpl\ndef exportkit_conf_packages(): return ['{name}_conf']\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    assert refusal(load_plugins) == (
        "plugin zeta of zeta 1.2: offers the preset experiment/nightly_eu, and so does plugin acme of acme 1.2; "
        "upgrade or uninstall it, or switch it off with EXPORTKIT_DISABLE_PLUGINS=zeta or acme"
    )


def test_a_preset_of_ours_cannot_be_offered_again(install, tmp_path, monkeypatch):
    (tmp_path / "acme_conf/experiment").mkdir(parents=True)
    (tmp_path / "acme_conf/experiment/nightly.yaml").touch()
    install("acme", "from exportkit.plugin import hookimpl\n@hookimpl\ndef exportkit_conf_packages(): return ['acme_conf']\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert refusal(load_plugins) == (
        "plugin acme of acme 1.2: offers the preset experiment/nightly, and so does exportkit; "
        "upgrade or uninstall it, or switch it off with EXPORTKIT_DISABLE_PLUGINS=acme"
    )


def test_presets_are_known_with_where_they_come_from(install, tmp_path, monkeypatch):
    (tmp_path / "acme_conf/experiment").mkdir(parents=True)
    (tmp_path / "acme_conf/experiment/nightly_eu.yaml").touch()
    hook = "@hookimpl\ndef exportkit_conf_packages(): return ['acme_conf', 'acme_conf']\n"
    install("acme", f"from exportkit.plugin import hookimpl\n{hook}")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_plugins().presets == {"experiment/nightly_eu": Provider("acme", "acme", "1.2")}
