"""Plugins with choices and sources in their fields, through Hydra: composed, overridden, shown and refused."""

import pickle
import subprocess
import sys

import pytest
import yaml
from omegaconf import OmegaConf

from exportkit.cli import main, schema
from exportkit.cli.schema import schema_of
from exportkit.sources.meta_graph import MetaGraphSource
from exportkit.steps.verify import Verify

CODE = """
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal
from exportkit.plugin import ModelSource, Phase, PostStep, hookimpl

class Precision(Enum):
    FULL = 32
    HALF = 16

@dataclass(kw_only=True)
class Chooses(PostStep):
    'Has fields to choose.'
    kind: str = "chooses"
    phase = Phase.VERIFY
    how: Literal["mean", "sum"] = "mean"
    often: Literal[1, 2] | None = None
    precision: Precision = Precision.FULL
    each: list[Precision] = field(default_factory=lambda: [Precision.HALF])
    def run(self, export): ...

@dataclass(kw_only=True)
class Holds(ModelSource):
    'Holds another source.'
    kind: str = "holds"
    inner: ModelSource
    spare: ModelSource | None = None
    def build(self, preview, scratch, wanted): ...

@hookimpl
def exportkit_model_sources(): return [Holds]
@hookimpl
def exportkit_post_steps(): return [Chooses]
"""


@pytest.fixture
def run(install, monkeypatch, tmp_path, capsys):
    """Run a command with the plugin acme installed; returns exit code, stdout and stderr."""
    from exportkit.cli import hydra_app

    install("acme", CODE)
    monkeypatch.chdir(tmp_path)
    hydra_app.plugins.cache_clear()
    yield lambda *words: (main([*words]), *capsys.readouterr())
    hydra_app.plugins.cache_clear()


def composed(run, *words):
    code, out, err = run("post=[chooses]", *words, "--cfg", "job")
    assert code == 0, err
    return yaml.safe_load(out)


def test_a_class_that_omegaconf_can_hold_is_its_own_schema():
    assert schema_of(MetaGraphSource) is MetaGraphSource


def test_a_config_of_a_schema_can_be_pickled():
    config = OmegaConf.structured(schema_of(Verify))
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert OmegaConf.get_type(again) is schema_of(Verify) is not Verify
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).unsampled)"
    read = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(config), capture_output=True, check=True)
    assert read.stdout == b"refuse\n"


def test_no_schema_has_a_name_that_no_class_has():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        schema.nothing  # noqa: B018


def test_choices_compose_as_a_config_writes_them(run):
    chosen = {"timeout": None, "kind": "chooses", "how": "mean", "often": None, "precision": "FULL", "each": ["HALF"]}
    assert composed(run)["post"]["chooses"] == chosen
    words = ("post.chooses.how=sum", "post.chooses.often=2", "post.chooses.precision=HALF")
    assert composed(run, *words)["post"]["chooses"] == chosen | {"how": "sum", "often": 2, "precision": "HALF"}


def test_a_source_composes_in_a_field_of_another(run):
    config = composed(run, "source=holds", "+source@source.inner=meta_graph", "source.inner.checkpoint=a")["source"]
    assert (config["kind"], config["spare"]) == ("holds", None)
    assert config["inner"]["kind"] == "meta_graph" and config["inner"]["checkpoint"] == "a"
    code, _, err = run("source=holds", "+source@source.inner=meta_graph", "source.inner.chekpoint=a", "--cfg", "job")
    assert code == 2
    assert "source.inner.chekpoint: no such key; did you mean source.inner.checkpoint?" in err


def test_a_plan_refuses_what_is_no_choice(run):
    words = ("name=x", "source=holds", "post=[chooses]", "post.chooses.how=sun", "post.chooses.precision=FALL")
    code, _, err = run("plan", *words)
    assert code == 2
    assert "source.inner: is not set; set it to a mapping with a kind\n" in err
    assert "post.chooses.how: is the text 'sun', not mean or sum; did you mean sum?\n" in err
    assert "post.chooses.precision: is the text 'FALL', not FULL or HALF; did you mean FULL?\n" in err


def test_the_choices_are_shown(run):
    code, out, _ = run("plugins", "chooses")
    assert code == 0
    shown = [line.split() for line in out.splitlines()]
    assert ["how", "mean", "|", "sum", "'mean'"] in shown
    assert ["often", "1", "|", "2", "|", "None", "null"] in shown
    assert ["precision", "FULL", "|", "HALF", "FULL"] in shown
    assert "a source: {kind: …}" in run("plugins", "holds")[1]
