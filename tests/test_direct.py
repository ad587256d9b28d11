"""Configs that are composed without Hydra: as Hydra composes them, to the value, the order and the text of a refusal."""

from dataclasses import dataclass
from functools import cache

import hydra
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf
from test_composing import CONF, HARD, Typed, once, parsed_once, parts, place  # noqa: F401 (a fixture)

from exportkit.cli import choices, hydra_app
from exportkit.cli.direct.composing import compose
from exportkit.registry import load_plugins

FILES = {
    **CONF,
    "model/plain": """
defaults: [override /source: meta_graph, override /signature: shared]
name: plain
source: {checkpoint: "runs/${name}", meta: null}
post: {verify: {atol: 1, batch_sizes: [1, 2]}, warmup: {requests: 3}}
vars: {sub: eu, d: {x: 0, y: 1}, l: [1, 2], n: 1, "a.b": dotted}
weights: {names: [{variable: a, key: b}]}
samples: {x: {empty: null, whole: "${name}", more: {"1": [{a: "${vars.sub}"}]}}}
export_dir: exports/${vars.sub}_${name}/${vars.n}
""",
    "model/kinds": """
defaults: [override /source: typed, override /post: [warmup, manifest], _self_]
name: kinds
source: {level: 7, ratio: 2, table: {b: 2}, corners: {left: {x: 1}}, many: [], maybe: null, place: a/b, color: BLUE}
vars: {sub: us, d: {x: 2}, l: [], n: 2}
meta_graphs: {serving: {tags: [serve, "${vars.sub}"]}}
""",
    "model/unset": "defaults: [override /source: meta_graph]\nname: unset\n",
    "model/wrong_key": "nam: x\n",
    "model/wrong_type": "defaults: [override /source: typed]\nsource: {level: abc}\n",
    "experiment/plain": "defaults: [override /model: plain, override /post: []]\n"
    "name: night\nvars: {d: {x: 5, z: 6}, l: [9]}\n",
}
MODELS = ["", "model=plain", "model=kinds", "experiment=plain", "model=plain experiment=same_keys"]
MORE = r"""
model=unset | model=wrong_key | model=wrong_type | model=plane | model=Kinds | experiment=plan | signature=share
version=7 vars.n=3
post=[verify,verify] | post=[] | post=[manifest,verify] | post=[warmup] post.warmup.requests=9 | post.warmup.request=9
post.verify.atoll=1 | post.verify.batch_sizes=[3] | post.verify.rtol=1e-6 | post.verify.rtol=.5 | source.checkpoint=runs/1.0
source.checkpoint=./x | source.checkpoint=../x | source.checkpoint=/ | source.checkpoint=~/x | source.levl=1
source.checkpont=a
source.checkpoint.x=1 | name=2024-01-01 | name=1e5 | name=01 | name=-1 | name=-x | name=NULL | name=True | name=Inf | name=a/inf
name=.5x | name=x. | name=a.5 | name=a:b | name=a\b | name=0.10 | name=1.0e10 | name=1_0 | name=é | vars.sub=no vars.d.x=on
vers=3 | exportdir=x | bindings.x.tensr=a | signatures.serving_default.inputs.z=x | signatures.serving_default.method=classify
weights.prove=false | weights.move=1 | allow.ops=[network]
name=${vars.sub}_x | name=${vars.sub}${vars.n}/a.b | export_dir=${name} | export_dir=/e/${name}/${vars.n} | export_dir=e/${nam}
export_dir=${oc.env:HOME} | export_dir=${ name } | export_dir=${name | export_dir=${.name} | export_dir=a${vars}
version=${vars.n} | version=${name} | weights.prove=${vars.n} | vars.sub=${name}-${name} | source=${vars.sub}
name=e/$\{vars.sub\} | name=$\{vars.n\}-$\{vars.sub} | name=$\{vars.n} | name=$\\{name\\} | name=$\{oc.env:HOME\}
name=x.${vars.sub} | name=$x | name=$${x}
report.path=${name}.json | samples.x.whole=1 | meta_graphs.serving.tags=[a]
"""
MORE = [job for line in MORE.strip().splitlines() for job in line.split(" | ")]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A directory with `FILES`, and the plugins with the source `Typed`."""
    place = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        file = place / f"conf/{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# @package _global_\n{text}")
    plugins = load_plugins()
    plugins.sources = {**plugins.sources, "typed": Typed}
    return place, cache(lambda: plugins)


@pytest.fixture
def compared(project, monkeypatch):
    """``compared(overrides)``: what Hydra and what `compose` make of them; Hydra is not asked for what is left to it."""
    place, plugins = project
    monkeypatch.chdir(place)
    monkeypatch.setattr(choices, "plugins", plugins)
    monkeypatch.setattr(hydra_app, "plugins", plugins)
    hydra_app._register(plugins(), place / "conf")
    with hydra.initialize_config_module(hydra_app.CONF, **hydra_app._version_base(hydra.initialize_config_module)):
        engine = GlobalHydra.instance().hydra
        yield lambda overrides: both(engine, overrides)
    ConfigStore.instance().repo["source"].pop("typed.yaml", None)


@pytest.fixture
def merged_once(parsed_once, monkeypatch):  # noqa: F811
    """Hydra merges the files of a defaults list once in a test: the overrides of values come later."""
    merge = ConfigLoaderImpl._compose_config_from_defaults_list
    known = once(merge, lambda self, defaults, repo: (defaults, *map(place, repo.get_sources())))
    monkeypatch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", known)


def both(engine, overrides):
    direct = outcome(lambda: compose(overrides))
    return None if direct == "None" else outcome(lambda: by_hydra(engine, overrides)), direct


def by_hydra(engine, overrides):
    config = engine.compose_config("config", list(overrides), RunMode.RUN)
    return OmegaConf.to_container(hydra_app.task_config(config), resolve=True)


def outcome(compose):
    """What is composed, with its types and in its order, or the text of what refuses it."""
    try:
        return repr(compose())
    except Exception as error:
        return f"refused: {hydra_app.refusal(error)}"


CONTENTS = [
    *(
        "",
        "a",
        "- a",
        "name: x",
        "name: [x",
        "name: x\nname: y",
        "nam: x",
        "1: x",
        "on: x",
        "name: !!str 3",
        "name: ! x",
        "name: &a x\nvars: {a: *a}",
    ),
    *(
        "bindings: null",
        "bindings: []",
        "bindings: x",
        "bindings: {}",
        "bindings: {x: null}",
        "bindings: {x: {y: {}}}",
        "vars: {no: 1}",
    ),
    *(
        "weights: {names: null}",
        "weights: {names: x}",
        "weights: {prove: yes}",
        "weights: {prove: 'yes'}",
        "weights: {prove: 1}",
    ),
    *(
        "report: {path: null}",
        "report: {path: a}",
        "report: {path: 3}",
        "report: x",
        "allow: {ops: [a, 1]}",
        "allow: {ops: [a, null]}",
    ),
    *(
        "source: null",
        "source: {kind: x}",
        "post: null",
        "post: {verify: null}",
        "post: {verify: {atol: 1}}",
        "post: {verify: {atol: x}}",
    ),
    *(
        "post: {warmup: {x: 1}}",
        "post: {verify: {batch_sizes: [1.5]}}",
        "post: {verify: {batch_sizes: []}}",
        "post: {verify: {timeout: 3}}",
    ),
    *("hydra: {verbose: true}", "defaults: []", "defaults: [_self_]", "defaults: x", "defaults: [/signature: shared]\nname: x"),
    *(
        "defaults: [override /signature: nope]",
        "defaults: [override /signature: null]",
        "defaults: [override signature: shared]",
    ),
    *("defaults: [override /model: plain]", "defaults: [override /experiment: plain]", "defaults: [override /post: verify]"),
    *("defaults: [override /post: [nope]]", "defaults: [override /source: nope]", "defaults: [override /hydra/output: null]"),
    *(
        "name: 1e3",
        "name: .5",
        "name: 0x1f",
        "name: 012",
        "name: 1_0",
        "name: 1:30",
        "name: ~",
        "name: -.inf",
        "name: 2024-01-01",
    ),
    *("name: yes", "name: |\n  a\n  b", "name: 1e400", "name: 123456789012345678901234567890", "name: 'é'", "name: ???"),
    *(
        "name: ${vars.x}\nvars: {x: 3}",
        "name: ${vars.x}\nvars: {x: 3.5}",
        "name: ${vars.x}\nvars: {x: null}",
        "name: ${vars.x}\nvars: {x: [1]}",
    ),
    *(
        "name: a\nvars: {x: '\\${name}'}",
        "vars: {x: '${name'}",
        "vars: {x: '$name'}",
        "vars: {x: '${.y}', y: 1}",
        "vars: {x: '${vars.y}', y: '${name}'}",
    ),
    *(
        "name: x\nexport_dir: ${name}",
        "name: 3\nexport_dir: ${name}",
        "name: x\nexport_dir: ${name}/${name}",
        "export_dir: null",
        "export_dir: 3",
    ),
    *(
        "ensure_shape: ${vars.x}\nvars: {x: true}",
        "ensure_shape: 1",
        "ensure_shape: 'no'",
        "version: 1",
        "version: '1'",
        "version: [1]",
    ),
    *(
        "name: x\nsamples: {a: [[1, 2.5], [{b: '${name}'}]]}",
        "meta_graphs: {serving: {tags: [a]}}",
        "meta_graphs: {serving: null}",
        "meta_graphs: {a: {tags: [b]}}",
    ),
]


@pytest.mark.slow
def test_any_content_of_a_file_is_as_hydra_composes_it_or_left_to_it(project, compared, breadth):
    found = {}
    for number, text in enumerate(CONTENTS[:: breadth(20, 1)]):
        (project[0] / f"conf/model/content{number}.yaml").write_text(f"# @package _global_\n{text}\n")
        found[text] = compared([f"model=content{number}", *(["name=given"] if "name:" not in text else [])])
    direct = {text: pair for text, pair in found.items() if pair[1] != "None"}
    assert {text: pair for text, pair in direct.items() if pair[0] != pair[1]} == {}
    assert len(direct) > len(found) / 20


HEADERS = [
    "",
    "# a model",
    "# @package model",
    "# @package _global_.x",
    "#@package _global_",
    "\n# @package _global_",
    "# @package _global_  ",
]


@pytest.mark.parametrize("header", HEADERS)
def test_a_file_of_another_package_is_left_to_hydra(project, compared, header):
    (project[0] / "conf/model/header.yaml").write_text(f"{header}\nname: x\n")
    by_hydra, direct = compared(["model=header"])
    assert direct == (by_hydra if header == HEADERS[-1] else "None")


@pytest.mark.parametrize("shadow", ["hydra", "source", "post", "name", "exportkit_schema.yaml"])
def test_what_replaces_files_of_exportkit_is_left_to_hydra(project, compared, shadow):
    place = project[0] / "conf" / shadow
    place.write_text("name: x") if place.suffix else place.mkdir()
    try:
        assert compared(["model=plain", "name=y"])[1] == "None"
    finally:
        place.unlink() if place.suffix else place.rmdir()


def test_a_plugin_that_omegaconf_may_refuse_is_left_to_hydra(project, compared):
    plugins = project[1]()

    @dataclass(kw_only=True)
    class Odd:
        kind: str = "odd"
        level: int = "abc"

    before, plugins.sources = plugins.sources, {**plugins.sources, "odd": Odd}
    try:
        assert compared(["model=plain"])[1] == "None"
    finally:
        plugins.sources = before


@pytest.mark.slow
@pytest.mark.usefixtures("merged_once")
@pytest.mark.parametrize("model", MODELS)
def test_hard_configs_are_as_hydra_composes_them_or_left_to_it(compared, model, breadth):
    every = [*HARD, *MORE]
    found = {text: compared([*model.split(), *parts(text)]) for text in every[:: breadth(20, 1)]}
    direct = {text: pair for text, pair in found.items() if pair[1] != "None"}
    assert {text: pair for text, pair in direct.items() if pair[0] != pair[1]} == {}
    assert len(direct) > len(found) / 20
