"""What a sweep decides before any job starts: what is there already, which numbers are given out, and who is in whose way."""

from pathlib import Path

import pytest
import toys
from omegaconf import OmegaConf

from exportkit.cli.sweep import preflight
from exportkit.cli.sweep.preflight import Outlook
from exportkit.errors import ConfigError, Problem
from exportkit.version.published import mark_published

MANIFEST = {"manifest": {"kind": "manifest"}}
ANNOUNCE = """
from dataclasses import dataclass
from exportkit.plugin import Phase, PostStep, hookimpl

@dataclass(kw_only=True)
class Announce(PostStep):
    kind: str = "announce"
    phase = Phase.PUBLISH

    def run(self, export): ...

@hookimpl
def exportkit_post_steps():
    return [Announce]
"""


@pytest.fixture
def config(checkpoint, tmp_path):
    """A factory of composed configs of the toy, whose versions have a manifest."""
    return lambda **changes: OmegaConf.create(
        toys.config(checkpoint("softmax").prefix, tmp_path, **{"post": MANIFEST, **changes})
    )


def made(config):
    return toys.export(OmegaConf.to_container(config)).version


def refused(config):
    with pytest.raises(ConfigError) as refusal:
        preflight.plan_job(0, config)
    return str(refusal.value)


def outlook(**changes):
    return Outlook(**{"name": "toy", "base": "/exports/toy", "version": "auto", "identity": "i", **changes})


# ---- what a job would make ----


def test_an_outlook_is_of_the_plan(config, tmp_path):
    found = preflight.plan_job(0, config(version=4))
    expected = {"name": "toy", "base": str(tmp_path / "exports/toy"), "version": 4, "uses_tensorflow": False}
    assert found == Outlook(**expected, identity=found.identity)
    assert preflight.plan_job(1, config()).identity == found.identity
    assert preflight.plan_job(1, config(strip_default_attrs=False)).identity != found.identity


def test_an_explicit_version_of_the_same_content_is_made_already(config):
    assert made(config(version=4)) == 4
    found = preflight.plan_job(0, config(version=4))
    assert (found.version, found.made) == (4, 4)
    assert preflight.unchanged({7: found}) == {7: 4}


def test_an_explicit_version_of_other_content_is_refused(config, checkpoint, tmp_path):
    """Were it taken for unchanged, stale weights would stay in force."""
    made(config(version=4))
    exists = f"version: 4 exists in {tmp_path}/exports/toy; a version is never overwritten: write version=auto"
    other = {"kind": "meta_graph", "checkpoint": checkpoint("dense").prefix}
    constants = {"x": "x:0", "probs": "probs:0", "training": {"constant": False, "replaces": "is_training:0"}}
    assert refused(config(version=4, source=other, bindings=constants)) == exists
    assert refused(config(version=4, strip_default_attrs=False)) == exists


def test_an_explicit_version_without_a_manifest_is_refused(config, tmp_path):
    made(config(version=4, post={}))
    (tmp_path / "exports/toy/5").mkdir()
    for version in (4, 5):
        assert refused(config(version=version)).startswith(f"version: {version} exists in ")


def test_an_explicit_version_that_lost_a_file_is_refused(config, tmp_path):
    made(config(version=4))
    (tmp_path / "exports/toy/4/saved_model.pb").unlink()
    assert refused(config(version=4)).startswith("version: 4 exists in ")


def test_another_problem_is_told_beside_a_version_that_is_there(config):
    made(config(version=4))
    said = refused(config(version=4, bindings={"x": "x:0", "probs": "prob:0"})).splitlines()
    assert [line.split(":")[0] for line in said] == ["version", "bindings.probs.tensor"]


def test_a_version_that_was_not_published_is_not_made(config, install, tmp_path):
    install("announce", ANNOUNCE)
    preflight.hydra_app.plugins.cache_clear()
    post = {**MANIFEST, "announce": {"kind": "announce"}}
    made(config(version=4, post=post))
    base = tmp_path / "exports/toy"
    assert preflight.plan_job(0, config(version=4, post=post)).made == 4
    (base / ".published/4").unlink()
    assert refused(config(version=4, post=post)).startswith("version: 4 exists in ")
    found = preflight.plan_job(0, config(post=post))
    assert found.publishes
    assert preflight.unchanged({0: found}) == {}
    mark_published(base, 4)
    assert preflight.unchanged({0: found}) == {0: 4}


# ---- what is unchanged ----


def test_an_open_version_is_the_newest_one_of_the_same_content(config):
    job = preflight.plan_job(0, config())
    assert preflight.unchanged({0: job}) == {}
    made(config())
    assert preflight.unchanged({0: job}) == {0: 1}
    made(config())
    assert preflight.unchanged({0: job}) == {0: 2}
    made(config(strip_default_attrs=False))  # a newer one of other content is in force
    assert preflight.unchanged({0: job}) == {}


def test_as_many_versions_are_looked_at_as_the_sweep_made(config):
    changed = config(strip_default_attrs=False)
    made(config())
    made(changed)
    jobs = {3: preflight.plan_job(3, config()), 5: preflight.plan_job(5, changed)}
    assert preflight.unchanged(jobs) == {3: 1, 5: 2}


def test_a_job_without_an_identity_is_never_unchanged(config):
    made(config())
    job = preflight.plan_job(0, config())
    assert preflight.unchanged({0: outlook(base=job.base, identity=None)}) == {}


def test_an_explicit_version_is_not_the_newest_of_the_same_content(config):
    """It is another number, so it is made."""
    made(config())
    job = preflight.plan_job(0, config(version=9))
    assert preflight.unchanged({0: job}) == {}


# ---- a second attempt ----


def test_what_an_earlier_attempt_made_is_found(config):
    assert preflight.made_since(config(), before=[]) is None
    made(config())
    assert preflight.made_since(config(), before=[]).version == 1
    assert preflight.made_since(config(), before=[1]) is None
    made(config(strip_default_attrs=False))
    assert preflight.made_since(config(), before=[]).version == 1
    made(config())
    assert preflight.made_since(config(), before=[]).version == 3
    assert preflight.made_since(config(), before=[3]).version == 1


def test_what_an_earlier_attempt_made_by_number_is_found(config):
    made(config())
    made(config(version=4))
    assert preflight.made_since(config(version=4), before=[]).version == 4
    assert preflight.made_since(config(version=4), before=[4]) is None
    assert preflight.made_since(config(version=4, strip_default_attrs=False), before=[]) is None


# ---- numbers and clashes ----


def test_numbers_are_given_out_in_the_order_of_the_jobs(tmp_path):
    (tmp_path / "6").mkdir()
    base, other, alone = str(tmp_path), str(tmp_path / "new"), str(tmp_path / "alone")
    jobs = {
        0: outlook(base=base),
        1: outlook(base=other),
        2: outlook(base=base, version=3),
        3: outlook(base=other),
        4: outlook(base=base),
        5: outlook(base=base),
        6: outlook(base=alone),
        7: outlook(base=base, version="timestamp"),
    }
    assert preflight.assigned(jobs, due=[5, 1, 3, 2, 0, 6, 7]) == {0: 7, 5: 8, 1: 1, 3: 2}
    assert preflight.assigned(jobs, due=[4]) == {}


def test_jobs_in_each_others_way():
    jobs = {
        0: outlook(version=3),
        1: outlook(identity="j"),
        2: outlook(version=3, identity="j"),
        3: outlook(version=4),
        4: outlook(identity="j"),
        5: outlook(identity="j", base="/exports/other"),
        6: outlook(version=3, base="/exports/other"),
        7: outlook(identity=None),
        8: outlook(identity=None),
        9: outlook(version=3),
    }
    twice = Problem("version 3", "is also made by job 0, below /exports/toy", "sweep over export_dir or version too")
    same = Problem("sweep", "job 1 exports the same to /exports/toy", "leave one of them out")
    assert list(preflight.clashes(jobs)) == [(2, twice), (4, same), (9, twice)]


def test_a_version_that_is_made_again_all_the_same_is_refused(tmp_path):
    (tmp_path / "4").mkdir()
    found = list(preflight.taken({1: outlook(base=str(tmp_path)), 2: outlook(base=str(tmp_path), version=4, made=4)}))
    assert [(number, str(problem)) for number, problem in found] == [
        (2, f"version: 4 exists in {tmp_path}; a version is never overwritten: write version=auto")
    ]


def test_what_many_jobs_share_is_said_once():
    missing, other = Problem("name", "is not set", "set it"), Problem("version", "is 0.5", "write an integer")
    told = preflight.group_problems({0: [missing], 2: [other, missing], 5: [missing]}, {0: ["model=a"], 2: ["model=b"], 5: []})
    assert list(map(str, told)) == [
        "job 0 (model=a) and 2 more: name: is not set; set it",
        "job 2 (model=b): version: is 0.5; write an integer",
    ]
    assert str(preflight.group_problems({5: [missing]}, {5: []})[0]).startswith("job 5: name: is not set")


def test_a_base_path_is_made_by_no_look(config, tmp_path):
    preflight.unchanged({0: preflight.plan_job(0, config())})
    assert not Path(tmp_path, "exports").exists()
