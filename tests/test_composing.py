"""The jobs of a sweep: composed from what they share, in several processes, and nothing differs from what Hydra composes."""

import copy
import os
import pickle
import signal
import threading
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cache
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace

import hydra
import omegaconf
import pytest
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict

from exportkit.cli import hydra_app
from exportkit.cli.config_source import SharedStore
from exportkit.cli.sweep import composition_cache
from exportkit.cli.sweep.composing import compose_all, expand
from exportkit.cli.sweep.composition_cache import CachingLoader, same_config
from exportkit.errors import EnvironmentFailed
from exportkit.registry import load_plugins


class Color(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Corner:
    x: int = 0
    place: Path | None = None


@dataclass(kw_only=True)
class Typed:
    """A source with a field of every type that a value is converted to."""

    kind: str = "typed"
    level: int = 1
    ratio: float = 0.5
    color: Color = Color.RED
    place: Path = Path("here")
    maybe: int | None = None
    flag: bool = False
    text: str = "${name}"
    many: list[int] = field(default_factory=lambda: [1, 2])
    table: dict[str, float] = field(default_factory=lambda: {"a": 1.0})
    corner: Corner = field(default_factory=Corner)
    corners: dict[str, Corner] = field(default_factory=dict)


CONF = {
    "model/a": """
defaults: [override /source: meta_graph, override /signature: shared]
name: a
source: {checkpoint: runs/a}
post: {verify: {atol: 0.25}}
vars: {sub: eu, d: {x: 0, y: 1}, l: [1, 2], n: 1, "a.b": dotted, pointer: "${vars.d}", empty: null, free: "???"}
export_dir: exports/${vars.sub}_${name}
""",
    "model/b": """
defaults: [override /source: typed, override /post: [warmup, manifest]]
name: b
source: {level: 7, table: {b: 2}, corners: {left: {x: 1}}}
vars: {sub: us, d: {x: 2}, l: [], n: 2, home: "${oc.env:HOME}", day: "${now:%Y-%m-%d}", job: "${hydra:job.num}"}
meta_graphs: {serving: {tags: [serve, "${vars.sub}"]}}
""",
    "model/missing": "defaults: [override /signature: '???']\nname: missing\n",
    "model/broken": "name: [\n",
    "signature/shared": "bindings: {x: {tensor: x:0}, y: y:0}\n"
    "signatures: {serving_default: {inputs: {x: x}, outputs: {y: y}}}\n",
    "signature/a": "bindings: {z: z:0}\n",
    "experiment/same_keys": "name: night_${vars.sub}\nsource: {checkpoint: runs/night}\nvars: {d: {x: 100}, l: [9]}\n",
    "experiment/overrides": "defaults: [override /model: b, override /hydra/job_logging: none]\nvars: {sub: late}\n",
    "experiment/interpolated": "defaults: [{/signature@vars.s: '${model}'}]\n",
    "experiment/by_value": "defaults: [{/signature@vars.s: '${vars.sub}'}]\n",
    "experiment/hydra_name": "hydra: {job: {name: '${name}', env_copy: [HOME]}, sweep: {subdir: '${name}_${hydra.job.num}'}}\n",
    "experiment/dirname": "hydra: {job: {config: {override_dirname: {kv_sep: ':', item_sep: ';', exclude_keys: [name]}}}}\n",
    "experiment/params": "hydra: {sweeper: {params: {version: '1,2', model: 'glob(*)', +vars.q: 'range(2)'}}}\n",
    "experiment/readonly": "vars: {sub: '${oc.decode:${vars.n}}'}\n",
    "part/one": "@package _group_",
}
ROOTS = ["model=a", "model=b", "model=a experiment=same_keys"]
HARD = r"""
name=x | name='"a, b"' | name=a\,b | name=a\ b | name='' | name=null | name=??? | name=1.10 | name=0x1f | vars.sub=us
vars.sub=null | vars.sub=??? | vars.sub=${name} | vars.sub=${nope} | vars.sub=${now:%Y} | vars.sub=[a]
vars.sub=${hydra.job.num} | vars.sub=${hydra:job.num} | vars.sub=${hydra.runtime.cwd} | vars.sub=${vars.d} | vars.n=1e-3
vars.n=true | vars.n=off | vars.n=int('3') | vars.n=str(3) | vars.n=nan | vars.n=-inf | vars.free=1 | vars.d={x: 5}
vars.d={z: 5} | vars.d={} | vars.d=null | vars.d=3 | vars.d.x=5 | vars.d.x={q: 1} | vars.d.x.q=1 | vars.l=[3] | vars.l=[]
vars.l.0=7 | vars.l.9=7 | vars.l=[{a: [b, null]}, ${name}] | vars.pointer.x=4 | vars.pointer={x: 4} | vars.pointer=1
+vars.pointer.new=1 | ~vars.pointer | ~vars.pointer.x | vars.pointer=null | vars[sub]=k | vars.'a.b'=k | vars[a.b]=k
vars.a.b=k | vars={sub: eu} | +vars={new: 1} | vars=null | vars.new=1 | +vars.new=1 | ++vars.new=1 | ++vars.sub=z
+vars.sub=z | +vars.d={new: 1} | +vars.l=[3] | +new=1 | ~vars.sub | ~vars.sub=eu | ~vars.sub=no | ~vars.nope | ~vars.d
~vars | ~name | ~post.verify | ~vars.l.0 | ~vars.d.x=0 | vars.d={x: 1} vars.d.x=2 | vars.d.x=2 vars.d={x: 1}
+vars.q=1 vars.q=2 | vars.q=2 +vars.q=1 | name=x name=y | +vars.q={a: 1} vars.q.a=2 ~vars.q.a | ~vars.d +vars.d=1
~vars.d vars.d=1 | vars.sub=x version=3 vars.sub=y | version=3 | version=auto | version=0123 | version=-1 | version='3'
version=[1] | version=1_000 | version=null | export_dir=out | export_dir=out/${vars.sub} | export_dir=null | export_dir=3
export_dir=out=here | ensure_shape=no | ensure_shape=7 | ensure_shape=0 | ensure_shape=maybe | clear_devices=null
report.path=r.json | report=null | report={path: x} | weights.moving_average=true | weights.names=[{variable: a, key: b}]
weights=null | meta_graphs.serving.tags=[serve,gpu] | meta_graphs.serving.tags.0=x | meta_graphs.gpu={tags: [gpu]}
meta_graphs={} | +meta_graphs.gpu.tags=[gpu] | meta_graphs.serving=null | bindings.x=x:1 | bindings.y=y:1
bindings.x.tensor=x | source.checkpoint=runs/x | source.checkpoint=null | source.checkpoint=${name}/x | source.meta=a/b.meta
source.meta=null | source={checkpoint: z} | source.params={a: 1} | +source.x=1 | source.kind=other | source=null
source=[meta_graph] | source=typed | source=nope | +source=typed | ~source | source@vars.s=typed | +source@vars.s=typed
source='typed' | source=typed source.level=3 | source=typed source.level=3.0 | source=typed source.level=abc
source=typed source.level='3' | source=typed source.ratio=3 | source=typed source.ratio=x | source=typed source.color=BLUE
source=typed source.color=2 | source=typed source.color=blue | source=typed source.place=a/b | source=typed source.place=3
source=typed source.maybe=1 | source=typed source.maybe=null | source=typed source.level=null | source=typed source.flag=yes
source=typed source.text=3 | source=typed source.many=[3] | source=typed source.many=[x] | source=typed source.many.0=x
source=typed source.many=null | source=typed source.table={b: 3} | source=typed source.table.a=4
source=typed +source.table.c=4 | source=typed source.table.a=x | source=typed source.corner={x: 4}
source=typed source.corner.place=q | source=typed source.corner={y: 4} | source=typed +source.corners.left={x: 4}
source=typed source.corners={up: {}} | source=typed source.corner=${source.corners.up} | post=[warmup,verify] | post=verify
post=[] | post=null | post=[nope] | post.verify.atol=1 | post.verify.atol=abc | post.warmup.requests=3
+post@post.second=manifest | +post@post.second=verify post.second.atol=3 | post@post.x=verify | ~post | ~post=verify
~model | ~signature=shared | ~signature=other | ~experiment | model=null | model=[a,b] | model=nope | model=missing
model=broken | model={a: 1} | model=3 | model=a model=b | +model=b | ++model=b | model@vars.m=b | +model@vars.m=b
+experiment=same_keys | model.a=1 | signature=a | signature=null | /signature=a | signature=${model} | experiment=overrides
experiment=interpolated | experiment=by_value | experiment=by_value vars.sub=a | experiment=hydra_name
experiment=hydra_name name=q | ~name experiment=hydra_name | experiment=dirname name=z version=2 vars.n=4
experiment=params | experiment=readonly vars.n=5 | experiment=[same_keys,dirname] | experiment=nope | experiment=part
hydra.job.name=zz | hydra.job.name=null | hydra.job.name=${name} | hydra.sweep.dir=there | hydra.job.num=7 | hydra.nope=1
+hydra.job.env_set.X=1 | ~hydra.job.env_set | hydra.job.env_copy=[HOME] | hydra.job.env_copy=[NO_SUCH]
hydra={job: {name: q}} | hydra/job_logging=disabled | hydra/job_logging=nope | hydra/launcher=basic | hydra.verbose=true
hydra.mode=MULTIRUN | hydra.overrides.task=[a] | hydra.runtime.cwd=x | hydra.searchpath=[pkg://exportkit.conf]
hydra.searchpath=x | hydra=null | hydra.job.config.override_dirname.kv_sep=: version=4 | hydra.runtime.choices.model=c
hydra.callbacks=null | name | =x | name= | name=a b | x=[ | name=a,b | version=range(3) | version=1,2 | model=glob(*)
name='x | name=x:1 | +=1
"""
HARD = [job for line in HARD.strip().splitlines() for job in line.split(" | ")]


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Hydra as a sweep finds it: ``sweep(*overrides)`` is the loader and the config of the sweep itself."""
    for name, text in CONF.items():
        file = tmp_path / f"conf/{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# @package _global_\n{text}")
    hydra_app._register(load_plugins(), tmp_path / "conf")
    ConfigStore.instance().store(group="source", name="typed", node=Typed, package="source", provider="test")
    with hydra.initialize_config_module(hydra_app.CONF, **hydra_app._version_base(hydra.initialize_config_module)):
        engine = GlobalHydra.instance().hydra
        yield lambda *overrides: (engine.config_loader, engine.compose_config("config", list(overrides), RunMode.MULTIRUN))


@pytest.fixture
def parsed_once(monkeypatch):
    """Hydra does once in a test, not once a composition, what depends on nothing else; where it refuses something, each time.

    It parses each file of a search path and each interpolation, puts a config in its package, and makes the config of choices
    that interpolations in a defaults list are resolved with.
    """
    known = ConfigRepository.load_config
    monkeypatch.setattr(
        ConfigRepository, "load_config", once(known, lambda self, config_path: (config_path, *map(place, self.sources)))
    )
    embedded = ConfigLoaderImpl._embed_result_config
    monkeypatch.setattr(ConfigLoaderImpl, "_embed_result_config", staticmethod(once(embedded, lambda *given: given)))
    made = defaults_list._create_interpolation_map
    known_choices = once(made, lambda overrides, *others: (overrides.known_choices, *others))
    monkeypatch.setattr(defaults_list, "_create_interpolation_map", known_choices)
    parse = cache(omegaconf.base.parse)
    for module in (omegaconf.base, omegaconf._utils):
        monkeypatch.setattr(module, "parse", parse)


def place(source):
    return source.scheme(), source.provider, source.path


def once(function, read):
    """Return a function that returns copies of its results, and runs once for arguments of which `read` returns the same."""
    kept = {}

    def called(*args, **named):
        key = pickle.dumps(read(*args, **named))
        if key not in kept:
            result = function(*args, **named)
            kept[key] = pickle.dumps(result)
            copied = pickle.loads(kept[key])
            assert content(copied) == content(result)
        return pickle.loads(kept[key])

    return called


def content(result):
    """What a result of Hydra's is made of."""
    config = result.config if isinstance(result, ConfigResult) else result
    return config if config is None else anatomy(config)


def anatomy(node):
    """All that a config is made of: types, values before resolution, schemas, flags, caches, the order of keys, parents."""
    content = node.__dict__["_content"] if OmegaConf.is_config(node) else node._value()
    facts = {f.name: getattr(node._metadata, f.name) for f in fields(node._metadata)}
    children = (
        list(content.items()) if isinstance(content, dict) else list(enumerate(content)) if isinstance(content, list) else []
    )
    assert all(child._get_parent() is node for _, child in children)
    return type(node), facts, [(key, anatomy(child)) for key, child in children] or (type(content), repr(content))


def outcome(function, *args):
    """What a composition comes to, in a form that can be compared."""
    try:
        return anatomy(function(*args))
    except Exception as error:
        return type(error), str(error), type(error.__cause__), str(error.__cause__)


def as_hydra_launches(loader, master, number, overrides):
    config = loader.load_sweep_config(master, list(overrides))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
    return config


def all_of(loader, master, jobs, look=lambda number, config: None, n_jobs=1):
    return list(compose_all(loader, master, jobs, look, hydra_app.refusal, n_jobs))


@pytest.mark.slow
@pytest.mark.parametrize("root", ROOTS)
def test_hard_jobs_are_as_hydra_composes_them(sweep, parsed_once, root, breadth):
    loader, master = sweep("hydra.sweep.dir=there", "+hydra.job.env_set.Y=1")
    templates = CachingLoader(loader.get_search_path())
    failed, chosen = 0, HARD[:: breadth(20, 1)]
    for text in chosen:
        overrides = [*root.split(), *parts(text)]
        expected = outcome(loader.load_sweep_config, master, overrides)
        assert outcome(templates.load_sweep_config, master, overrides) == expected, text
        failed += isinstance(expected[1], str)
    assert len(HARD) > 200 and 0.25 < failed / len(chosen) < 0.65


def parts(text):
    """The overrides of a line: at spaces before a key."""
    found = []
    for word in text.split(" "):
        if not found or "=" in word or word.startswith("~"):
            found.append(word)
        else:
            found[-1] += f" {word}"
    return found


TWO_AXES = [["model=a", "version=1"], ["model=b", "version=1"], ["model=a", "version=2"], ["model=b", "version=2"]]
FRAGMENTS = [text for text in HARD if "model=" not in text and "\\" not in text]


@pytest.mark.slow
@settings(max_examples=settings().max_examples // 3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_drawn_jobs_are_as_hydra_composes_them(sweep, parsed_once, data):
    """One loader for all that is drawn, so that templates of every history are met."""
    if not hasattr(sweep, "drawn"):
        sweep.drawn = sweep("model=a,b")
        sweep.templates = CachingLoader(sweep.drawn[0].get_search_path())
    loader, master = sweep.drawn
    chosen = data.draw(st.lists(st.sampled_from(FRAGMENTS), max_size=4))
    overrides = [data.draw(st.sampled_from(["model=a", "model=b"])), *(word for text in chosen for word in parts(text))]
    expected = outcome(loader.load_sweep_config, master, overrides)
    assert outcome(sweep.templates.load_sweep_config, master, overrides) == expected


def test_a_composed_job_is_what_a_launcher_of_hydras_makes(sweep):
    loader, master = sweep("model=a,b", "version=1,2")
    for job, overrides in zip(all_of(loader, master, TWO_AXES), TWO_AXES, strict=True):
        assert (job.overrides, job.error) == (overrides, None)
        expected = as_hydra_launches(loader, master, job.number, overrides)
        assert anatomy(pickle.loads(job.config)) == anatomy(expected)
        assert OmegaConf.to_container(pickle.loads(job.config).hydra.overrides.task) == overrides


def test_a_look_sees_what_the_job_will_be_called_with(sweep, tmp_path):
    loader, master = sweep("model=b", "experiment=dirname")
    overrides = ["model=b", "experiment=dirname", "name=seen"]
    seen = []

    def job(config):
        hydra = HydraConfig.instance().cfg
        seen.append((anatomy(config), OmegaConf.to_container(hydra), hydra.hydra.runtime.output_dir, config.vars.job))

    config = as_hydra_launches(loader, master, 0, overrides)
    context = SimpleNamespace(callbacks=SimpleNamespace(on_job_start=lambda **_: None, on_job_end=lambda **_: None))
    run_job(job, config, "hydra.sweep.dir", "hydra.sweep.subdir", context, configure_logging=False)
    before = HydraConfig.instance().cfg
    (looked,) = all_of(loader, master, [overrides], lambda number, config: job(config))
    assert looked.error is None
    assert HydraConfig.instance().cfg is before
    assert seen[1] == seen[0]
    assert seen[0][2:] == (str(Path(config.hydra.sweep.dir, "0").absolute()), 0)


def test_composing_leaves_the_config_store_as_it_was(sweep):
    """Hydra's copy of the store for each composition is not made: see `SharedStore`."""
    loader, master = sweep("model=b")
    repository = loader.repository
    (store,) = (source for source in repository.sources if isinstance(source, SharedStore))
    assert copy.deepcopy(repository).sources[repository.sources.index(store)] is store
    before = stored(ConfigStore.instance().repo)
    config = loader.load_sweep_config(master, ["model=b", "source.level=8", "source.corners.left.x=2", "source.many=[]"])
    assert (config.source.level, config.source.corners.left.x, config.source.many) == (8, 2, [])
    assert stored(ConfigStore.instance().repo) == before


def stored(node):
    """What a store's groups hold."""
    return {name: stored(inner) for name, inner in node.items()} if isinstance(node, dict) else anatomy(node.node)


@pytest.fixture
def compositions(monkeypatch):
    """The numbers of configs that Hydra merged, composition by composition; and how often it made a defaults list."""
    counted = SimpleNamespace(merged=[], lists=0)
    merge, create = ConfigLoaderImpl._compose_config_from_defaults_list, composition_cache.create_defaults_list

    def counting_merge(self, defaults, repo):
        counted.merged.append(len(defaults))
        return merge(self, defaults, repo)

    def counting_create(**arguments):
        counted.lists += 1
        return create(**arguments)

    monkeypatch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", counting_merge)
    monkeypatch.setattr(composition_cache, "create_defaults_list", counting_create)
    return counted


@pytest.fixture
def a_thread():
    """The parent has one, as it has under a live view: Python 3.12 warns of forks then."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    yield
    done.set()
    thread.join()


def test_what_jobs_share_is_composed_once(sweep, compositions):
    loader, master = sweep("model=a,b", "version=1,2")
    compositions.merged.clear()
    jobs = [[f"model={model}", f"version={version}", "+vars.x=1", "~name"] for version in range(20) for model in "ab"]
    assert not any(job.error for job in all_of(loader, master, jobs))
    whole, begun, tail = compositions.merged  # the second model's list begins as the first one's: that part is merged by itself
    assert tail < begun < whole
    assert compositions.lists == 2


def test_processes_compose_what_one_does(sweep, a_thread):
    loader, master = sweep("model=a,b", "version=1,2")
    jobs = [[f"model={model}", f"version={version}"] for model in ("a", "b", "nope") for version in range(7)]

    def look(number, config):
        if number % 5 == 3:
            raise ValueError(f"no {config.version}")
        return {"version": config.version}

    alone, together = (all_of(loader, master, jobs, look, n_jobs=count) for count in (1, 3))
    assert [job.number for job in together] == list(range(21))
    assert [(j.number, j.overrides, j.result, str(j.error)) for j in together] == [
        (j.number, j.overrides, j.result, str(j.error)) for j in alone
    ]
    for one, other in zip(alone, together, strict=True):
        assert bool(one.config) == bool(other.config) == (one.number < 14)
        assert not one.config or anatomy(pickle.loads(one.config)) == anatomy(pickle.loads(other.config))
    assert active_children() == []


def test_what_templates_do_not_manage_is_hydras(sweep, monkeypatch):
    loader, master = sweep("model=a,b", "version=1,2")
    monkeypatch.setattr(CachingLoader, "_with_template", lambda self, key, defaults: None)
    for job, overrides in zip(all_of(loader, master, TWO_AXES), TWO_AXES, strict=True):
        assert anatomy(pickle.loads(job.config)) == anatomy(as_hydra_launches(loader, master, job.number, overrides))


def large(loader, master):
    count = composition_cache.LARGE
    return all_of(loader, master, [[f"model={'ab'[number % 2]}", f"version={number}"] for number in range(count)])


def test_a_large_sweep_trusts_the_cache_where_a_sample_is_as_hydra_composes_it(sweep, compositions, caplog):
    loader, master = sweep("model=a,b", "version=1,2")
    compositions.merged.clear()
    assert not any(job.error for job in large(loader, master))
    assert caplog.messages == []
    assert len(compositions.merged) == 3 + 1  # the cache's, as for a small sweep; and the sample's


def test_a_large_sweep_does_without_a_cache_that_differs_from_hydra(sweep, monkeypatch, caplog):
    loader, master = sweep("model=a,b", "version=1,2")
    compose = CachingLoader.load_sweep_config

    def wrong(self, master, overrides):
        config = compose(self, master, overrides)
        config.name = "wrong"
        return config

    monkeypatch.setattr(CachingLoader, "load_sweep_config", wrong)
    monkeypatch.setattr(composition_cache, "LARGE", 10)  # Hydra composes them all
    names = [pickle.loads(job.config).name for job in large(loader, master)]
    assert names == ["a", "b"] * 5
    assert caplog.messages == [
        "the cache of compositions differs from Hydra for ['model=a', 'version=0']: the sweep is composed without it"
    ]


def test_configs_are_the_same_only_where_all_of_them_is(sweep):
    loader, master = sweep("model=a", "version=1")
    jobs = [
        "version=1",
        "version='1'",
        "vars.d={y: 2}",
        "+vars.q=null",
        "vars.sub=${name}",
        "vars.sub=a",
        "vars.l=[2, 1]",
    ]
    configs = [
        loader.load_sweep_config(master, ["model=a"]),
        *(loader.load_sweep_config(master, ["model=a", job]) for job in jobs),
    ]
    for config in configs:
        config.hydra = {}
    assert [[same_config(a, b) for b in configs] for a in configs] == [[a is b for b in configs] for a in configs]


def test_every_job_that_cannot_be_composed_is_told(sweep):
    loader, master = sweep("model=a,b", "version=1,2")
    wrong = {
        "nam=x": "nam: no such key; did you mean name?",
        "model=aa": "model: there is no 'aa'; did you mean a?",
        "post.verify.atol=abc": "post.verify.atol: is 'abc', not a number",
        "model=broken": "conf/model/broken.yaml:3: is not YAML: expected the node content, but found '<stream end>'",
        "name=[": "name=[: no viable alternative at input '['; quote what is not plain, for the shell too: 'key=\"a: b\"'",
    }
    jobs = [["model=a", text] for text in wrong] + [["model=a"]]
    told = all_of(loader, master, jobs, n_jobs=2)
    assert {job.overrides[1]: str(job.error) for job in told[:-1]} == wrong
    assert [job.config == b"" for job in told] == [True] * len(wrong) + [False]


def test_a_look_that_fails_leaves_the_config(sweep):
    loader, master = sweep("model=a")

    def look(number, config):
        raise PermissionError(13, "Permission denied", "graph.meta")

    (job,) = all_of(loader, master, [["model=a"]], look)
    assert (str(job.error), job.result, bool(job.config)) == ("graph.meta: Permission denied", None, True)


@pytest.mark.parametrize("name", ["was killed by SIGKILL, most likely because memory ran out", "ended with exit code 3"])
def test_a_process_that_dies_is_told(sweep, capfd, name):
    loader, master = sweep("model=a,b")

    def look(number, config):
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL) if "KILL" in name else os._exit(3)

    with pytest.raises(EnvironmentFailed) as caught:
        all_of(loader, master, [["model=a"]] * 4 + [["model=b"]] * 4, look, n_jobs=2)
    assert str(caught.value) == (
        f"one of jobs 4, 5, 6, 7: the process that composed it {name}; choose a smaller hydra.launcher.n_jobs if memory ran out"
    )
    assert active_children() == []
    assert capfd.readouterr() == ("", "")


def test_a_process_that_dies_between_its_jobs_is_told(sweep):
    loader, master = sweep("model=a,b")
    jobs = compose_all(loader, master, [["model=a"]] * 40, lambda *_: None, hydra_app.refusal, n_jobs=2)
    assert next(jobs).number == 0
    for process in active_children():
        process.kill()
        process.join()
    with pytest.raises(EnvironmentFailed, match="the process that composed it was killed by SIGKILL"):
        list(jobs)


def test_processes_end_quietly_when_nobody_waits_any_more(sweep, capfd):
    loader, master = sweep("model=a,b")
    jobs = compose_all(
        loader, master, [["model=a"]] * 40, lambda *_: os.kill(os.getpid(), signal.SIGINT), hydra_app.refusal, n_jobs=2
    )
    assert next(jobs).error is None  # a Ctrl-C reaches the processes too, and is the parent's to answer
    assert len(active_children()) == 2
    with pytest.raises(KeyboardInterrupt):
        jobs.throw(KeyboardInterrupt)
    assert active_children() == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=a,b", "version=range(1,4)", "name=x"],
        ["model=glob(*,exclude=[m*])", "vars.sub='a,b',c", "+vars.q=1,2", "~post.verify"],
        ["version=3", "version=1,2", "hydra.verbose=true", "vars.d={x: 1},{y: [a, b]}", "name=a\\,b"],
        ["version=choice(1,2)", "vars.n=interval(0,1)"],
        ["version=["],
    ],
)
@pytest.mark.parametrize("params", [None, {"version": "7,8", "+vars.free2": "range(2)"}])
def test_jobs_are_expanded_as_by_hydras_sweeper(sweep, tmp_path, overrides, params):
    loader, master = sweep()
    batches = []
    basic = next(sweeper for sweeper in Plugins.instance().discover(Sweeper) if sweeper.__name__ == "BasicSweeper")
    sweeper = basic(max_batch_size=None, params=params)
    sweeper.config, sweeper.hydra_context = master, SimpleNamespace(config_loader=loader)
    sweeper.launcher = SimpleNamespace(launch=lambda batch, initial_job_idx: batches.append(batch) or [])
    sweeper.validate_batch_is_legal = lambda batch: None
    try:
        sweeper.sweep(overrides)
    except HydraException as error:
        with pytest.raises(type(error)) as caught:
            expand(overrides, loader, params)
        assert str(caught.value) == str(error)
    else:
        assert [expand(overrides, loader, params)] == batches
