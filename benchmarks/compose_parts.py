"""Measure the parts of planning a sweep, each added to the ones before: ``python compose_parts.py OVERRIDE...``.

Prints seconds as JSON: for composing all jobs, with planning them, with computing their identities; and for composing one job
with Hydra alone, the mean of a sample.
"""

import json
import sys
from time import perf_counter

from exportkit.cli import hydra_app
from exportkit.cli.export_job import job
from exportkit.cli.sweep import preflight, sweeping
from exportkit.cli.sweep.composing import compose_all, expand
from exportkit.planning.plan import plan

SAMPLE = 20


def measure(arguments, params, launcher, options):
    """Measure; called in the place of `exportkit.cli.sweep.sweeping.sweep`."""
    loader, config = launcher.hydra_context.config_loader, launcher.config
    jobs = expand(arguments, loader, params)
    looks = {
        "compose": lambda number, task: None,
        "plan": lambda number, task: plan(task, hydra_app.plugins()) and None,
        "identity": preflight.plan_job,
    }
    seconds, before = {"jobs": len(jobs)}, 0.0
    for name, look in looks.items():
        started = perf_counter()
        wrong = [one.error for one in compose_all(loader, config, jobs, look, hydra_app.refusal) if one.error]
        if wrong:
            raise wrong[0]
        took = perf_counter() - started
        seconds[name], before = took - before, took
    started = perf_counter()
    for overrides in jobs[:SAMPLE]:
        loader.load_sweep_config(config, list(overrides))
    seconds["Hydra's own"] = (perf_counter() - started) / len(jobs[:SAMPLE])
    print(json.dumps(seconds))


sweeping.sweep = measure
hydra_app.run(["-m", *sys.argv[1:]], job)
