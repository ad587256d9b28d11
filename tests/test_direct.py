"""Configs that are composed without Hydra: as Hydra composes them, to the value, the order and the text of a refusal."""

from functools import cache

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf
from test_composing import CONF, HARD, ROOTS, Typed, parts

from exportkit.cli import choices, hydra_app
from exportkit.cli.direct.composing import compose
from exportkit.errors import ConfigError
from exportkit.registry import load_plugins


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """``compared(overrides)``: what Hydra and what `compose` make of them, in a project with the configs of test_composing."""
    place = tmp_path_factory.mktemp("project")
    for name, text in CONF.items():
        file = place / f"conf/{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# @package _global_\n{text}")
    plugins = load_plugins()
    plugins.sources = {**plugins.sources, "typed": Typed}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        found = cache(lambda: plugins)
        patch.setattr(choices, "plugins", found)
        patch.setattr(hydra_app, "plugins", found)
        hydra_app._register(plugins, place / "conf")
        with hydra.initialize_config_module(hydra_app.CONF, **hydra_app._version_base(hydra.initialize_config_module)):
            engine = GlobalHydra.instance().hydra
            yield lambda overrides: (outcome(lambda: by_hydra(engine, overrides)), outcome(lambda: compose(overrides)))
    ConfigStore.instance().repo["source"].pop("typed.yaml", None)


def by_hydra(engine, overrides):
    config = engine.compose_config("config", list(overrides), RunMode.RUN)
    return OmegaConf.to_container(hydra_app.task_config(config), resolve=True)


def outcome(compose):
    """What is composed, with its types and in its order, or the text of what refuses it."""
    try:
        return repr(compose())
    except Exception as error:
        return f"refused: {hydra_app.refusal(error)}"


@pytest.mark.slow
@pytest.mark.parametrize("root", ROOTS)
def test_hard_configs_are_as_hydra_composes_them_or_left_to_it(compared, root):
    found = {text: compared([*root.split(), *parts(text)]) for text in HARD}
    wrong = {text: pair for text, pair in found.items() if pair[1] not in (pair[0], "None")}
    assert wrong == {}
