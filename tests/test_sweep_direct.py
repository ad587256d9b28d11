"""Jobs of a sweep that are composed without Hydra: what becomes of them, and what the user's code finds, is as with Hydra."""

import json
import re

import pytest
from test_sweep import Fleet, own_hydra  # noqa: F401 - a fixture

from exportkit.cli.sweep import direct_jobs
from exportkit.cli.sweep.composing import _Composer

LOOKING = """\
import logging, os, sys
from dataclasses import dataclass
from pathlib import Path
from exportkit.plugin import Phase, PostStep, hookimpl

@dataclass(kw_only=True)
class Look(PostStep):
    kind: str = "look"
    phase = Phase.PUBLISH

    def run(self, export):
        from hydra.core.hydra_config import HydraConfig
        from hydra.utils import get_original_cwd
        from omegaconf import OmegaConf

        levels = [logging.getLogger(name).level for name in (None, "tensorflow", "absl", "exportkit")]
        found = [OmegaConf.to_yaml(HydraConfig.get()), get_original_cwd(), sys.argv[1:], levels]
        Path(f"seen.{export.plan.name}").write_text("\\n".join(map(str, found)))
        if Path("dies").exists():
            os._exit(7)

@hookimpl
def exportkit_post_steps():
    return [Look]
"""
WORDS = ("post=[manifest,look]", "hydra.launcher.n_jobs=1", "export_dir=out/${name}", "--force")


@pytest.fixture
def looked(tmp_path, checkpoint, own_hydra, capfd, install, monkeypatch):  # noqa: F811
    """``looked(direct, …)``: a sweep's exit code, records, what jobs printed, what they found, how many Hydra composed."""
    install("look", LOOKING)
    fleet = Fleet(tmp_path, checkpoint, capfd)

    def sweep(direct, *words, code=0):
        composed = []
        with monkeypatch.context() as patch:
            if not direct:
                patch.setattr(direct_jobs, "composer", lambda *_: None)
            make = _Composer.composition.func
            patch.setattr(_Composer, "composition", property(lambda self: composed.append(1) or make(self)))
            fleet.sweep(*words, code=code)
        seen = [file.read_text() for file in sorted(tmp_path.glob("seen.*"))]
        records = [json.loads((tmp_path / f"record/{n}/job.json").read_text()) for n in range(3)]
        logs = [(tmp_path / f"record/{n}/output.log").read_text() for n in range(3)]
        return timeless(records), timeless(logs), timeless(fleet.told.stderr), seen, bool(composed)

    return fleet, sweep


def timeless(value):
    """Return text or plain data without times, and without the numbers of versions, which every sweep counts up."""
    text = json.dumps(value)
    text = re.sub(r"\d+(\.\d+)?(e-\d+)? s\b", "N s", re.sub(r'("\w[\w .,]*": )\d+\.\d+(e-\d+)?', r"\1N", text))
    return re.sub(r"(version |version\": |/out/\w+/|out/\w+/)\d+", r"\1N", text)


@pytest.mark.slow
def test_a_job_and_its_users_code_find_what_they_find_with_hydra(looked):
    _, sweep = looked
    *expected, by_hydra = sweep(False, *WORDS)
    *found, also_by_hydra = sweep(True, *WORDS)
    assert (by_hydra, also_by_hydra) == (True, False)
    assert found == expected
    seen = found[-1]
    assert [re.search(r"- model=(\w)$", one, re.M)[1] for one in seen] == ["a", "b", "c"]
    assert [re.search(r"num: (\d)$", one, re.M)[1] for one in seen] == ["0", "1", "2"]


@pytest.mark.slow
def test_a_job_that_dies_is_recorded_as_with_hydra(looked):
    fleet, sweep = looked
    fleet.write("dies", "")
    *expected, _ = sweep(False, *WORDS, code=1)
    *found, by_hydra = sweep(True, *WORDS, code=1)
    assert not by_hydra
    assert found == expected
    assert '"status": "died"' in found[0] and '"base": "' in found[0]


def test_versions_below_one_path_are_assigned_in_the_order_of_the_jobs(looked):
    fleet, sweep = looked
    *_, by_hydra = sweep(True, "post=[manifest]", "export_dir=out/all")
    assert not by_hydra
    versions = {job["name"]: job["version"] for job in fleet.record["jobs"]}
    assert versions == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize("word", ["hydra.job.name=x", "hydra/job_logging=default", "hydra.verbose=true"])
def test_a_sweep_with_settings_of_hydras_is_hydras(looked, word):
    fleet, _ = looked
    asked = []
    composed = direct_jobs.composer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct_jobs, "composer", lambda *a: asked.append(composed(*a)) or asked[0])
        fleet.sweep("post=[]", word, "hydra.sweeper.dry_run=true")
    assert asked == [None]
    assert fleet.record["counts"] == {"planned": 3}
