"""The records of a sweep: what is told of each job, whatever became of it."""

import json

from omegaconf import OmegaConf
from test_published import version

from exportkit.cli.sweep import job_record, preflight, sweep_record, sweeping
from exportkit.cli.sweep.job_record import Job
from exportkit.cli.sweep.preflight import Outlook
from exportkit.errors import Problem
from exportkit.version.published import mark_published


def outlook(base="/srv/m", version="auto", identity="a", **more):
    return Outlook(name="m", base=str(base), version=version, identity=identity, **more)


# ---- what is there already ----


def test_jobs_whose_version_is_in_force_are_unchanged(tmp_path):
    version(tmp_path, 1, "a")
    version(tmp_path, 2, "b")
    found = {0: outlook(tmp_path, identity="b"), 1: outlook(tmp_path, identity="a"), 2: outlook(tmp_path, identity="c")}
    assert preflight.unchanged(found) == {0: 2, 1: 1}


def test_an_older_version_is_not_in_force(tmp_path):
    version(tmp_path, 1, "a")
    version(tmp_path, 2, "b")
    assert preflight.unchanged({0: outlook(tmp_path, identity="a")}) == {}


def test_an_explicit_version_is_unchanged_wherever_it_stands(tmp_path):
    version(tmp_path, 9, "x")
    assert preflight.unchanged({4: outlook(tmp_path, version=3, made=3), 5: outlook(tmp_path, version=4)}) == {4: 3}


def test_what_no_checkpoint_names_is_never_unchanged(tmp_path):
    version(tmp_path, 1, "a")
    assert preflight.unchanged({0: outlook(tmp_path, identity=None)}) == {}


def test_a_version_that_was_not_published_by_all_steps_is_made_again(tmp_path):
    version(tmp_path, 1, "a")
    job = {0: outlook(tmp_path, publishes=True)}
    assert preflight.unchanged(job) == {}
    mark_published(tmp_path, 1)
    assert preflight.unchanged(job) == {0: 1}


def test_open_numbers_below_one_base_are_assigned_in_the_order_of_the_jobs(tmp_path):
    version(tmp_path, 4, "x")
    here = {n: outlook(tmp_path, identity=str(n)) for n in range(4)}
    others = {4: outlook("/srv/n"), 5: outlook(tmp_path, version="timestamp"), 6: outlook(tmp_path, version=9)}
    assert preflight.assigned({**here, **others}, [0, 2, 3, 4, 5, 6]) == {0: 5, 2: 6, 3: 7}


# ---- jobs in each other's way ----


def test_two_jobs_for_one_version_are_a_problem():
    found = dict(preflight.clashes({0: outlook(version=3), 1: outlook(version=4), 2: outlook(version=3, identity="b")}))
    assert {number: str(problem) for number, problem in found.items()} == {
        2: "version 3: is also made by job 0, below /srv/m; sweep over export_dir or version too"
    }


def test_two_jobs_for_the_same_export_are_a_problem():
    unknown = outlook(identity=None)
    found = dict(preflight.clashes(dict(enumerate([outlook(), outlook("/srv/n"), outlook(), unknown, unknown]))))
    assert {number: str(problem) for number, problem in found.items()} == {
        2: "sweep: job 0 exports the same to /srv/m; leave one of them out"
    }


def test_an_explicit_version_is_not_made_by_force(tmp_path):
    version(tmp_path, 3, "a")
    (problem,) = preflight.taken({0: outlook(tmp_path, version=3, made=3), 1: outlook(tmp_path)})
    assert (problem[0], str(problem[1])) == (
        0,
        f"version: 3 exists in {tmp_path}; a version is never overwritten: write version=auto",
    )


def test_a_problem_is_told_once_under_its_first_job():
    wrong, other = Problem("source.bulder", "no such key", "did you mean builder?"), Problem("name", "is not set")
    problems = {0: [wrong], 1: [wrong, other], 7: [wrong]}
    words = sweep_record.distinct_overrides(
        [["model=a", "x=1"], ["model=b", "x=1"], *[[f"model={n}", "x=1"] for n in range(2, 8)]]
    )
    assert list(map(str, preflight.group_problems(problems, dict(enumerate(words))))) == [
        "job 0 (model=a) and 2 more: source.bulder: no such key; did you mean builder?",
        "job 1 (model=b): name: is not set",
    ]


def test_what_all_jobs_share_does_not_set_them_apart():
    assert sweep_record.distinct_overrides([["a=1", "b=1"], ["a=1", "b=2"]]) == [["b=1"], ["b=2"]]
    assert sweep_record.distinct_overrides([["a=1"]]) == [["a=1"]]
    assert sweep_record.distinct_overrides([]) == []


# ---- records ----


def test_every_job_is_told_whatever_became_of_it(tmp_path):
    planned = [Job(number=n, name="m", base="/srv/m", overrides=[f"version={n}"]) for n in range(5)]
    planned[4].status = "unchanged"
    sweep_record.write_sweep(tmp_path, planned)
    job_record.write_job(Job(number=1, name="m", status="exported", version=1, bytes=5, proof="1/1"), tmp_path / "1")
    job_record.write_job(Job(number=2, name="m", status="failed", reason="x: is wrong"), tmp_path / "2")
    (tmp_path / "3").mkdir()
    found = sweep_record.read_sweep(tmp_path)
    assert [(job.number, job.status) for job in found] == [
        (0, "not run"),
        (1, "exported"),
        (2, "failed"),
        (3, "died"),
        (4, "unchanged"),
    ]
    assert sweep_record.problems(found) == [
        "job 2: x: is wrong",
        "job 3: died without a word; its last output says more",
        "1 job not run, from job 0 on: run the sweep again, and it goes on there",
    ]
    assert sweep_record.summary(found, 1.25) == "5 jobs in 1.2 s: 1 not run, 1 exported, 1 failed, 1 died, 1 unchanged"


def test_sweep_json_says_it_all_but_the_reports(tmp_path):
    job = Job(
        number=0, name="m", status="exported", version=3, base="/srv/m", seconds=0.5, bytes=7, proof="2/2", report={"a": 1}
    )
    content = json.loads(sweep_record.write_sweep(tmp_path, [job], 2.0).read_text())
    assert content == {
        "directory": str(tmp_path),
        "seconds": 2.0,
        "counts": {"exported": 1},
        "jobs": [
            {
                "number": 0,
                "name": "m",
                "status": "exported",
                "version": 3,
                "base": "/srv/m",
                "directory": None,
                "seconds": 0.5,
                "bytes": 7,
                "proof": "2/2",
                "reason": "",
                "overrides": [],
            }
        ],
    }
    assert sweep_record.read_sweep(tmp_path) == [Job(**content["jobs"][0])]


def test_sweeps_that_begin_at_one_time_have_a_directory_each(tmp_path):
    """Two commands in one second, or a clock that was set back."""
    OmegaConf.register_new_resolver("now", lambda form: "19-00-00", replace=True)
    config = OmegaConf.create({"hydra": {"sweep": {"dir": f"{tmp_path}/sweeps/${{now:%H-%M-%S}}", "subdir": "0"}}})
    taken = [sweeping._take_directory(config) for _ in range(3)]
    assert taken == [tmp_path / "sweeps" / name for name in ("19-00-00", "19-00-00-2", "19-00-00-3")]
    assert all(directory.is_dir() for directory in taken)


def test_a_directory_that_the_user_named_is_used_again(tmp_path):
    config = OmegaConf.create({"hydra": {"sweep": {"dir": f"{tmp_path}/mine", "subdir": "${now:%H}"}}})
    assert [sweeping._take_directory(config) for _ in range(2)] == [tmp_path / "mine"] * 2
