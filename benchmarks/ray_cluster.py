"""Run a sweep on a Ray cluster that loses a machine, and check that every job ends exported, once.

``python benchmarks/ray_cluster.py [--models 20] [--nodes 2]`` starts a cluster of `nodes` raylets with one processor each on
this machine, and exports a fleet of small models on it by ``exportkit -m … hydra/launcher=ray_cluster``: undisturbed; with a
raylet and its workers killed when a third of the jobs have ended; and that sweep once more. Every version is then verified.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import harness
from sweep import fleet

from exportkit import processes
from exportkit.verifying.audit import verify_version

STORE = 100_000_000  # bytes of shared memory for each raylet; nothing is stored there
AGAIN = "the task will be retried"  # what Ray prints for each job that was lost


@dataclass(frozen=True)
class Swept:
    """A sweep's wall seconds, jobs by status, number of jobs that ran again, and versions of each model."""

    seconds: float
    counts: Counter[str]
    again: int
    versions: dict[str, list[str]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A sweep on a Ray cluster that loses a machine.")
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--directory", type=Path, help="where to work (default: the system's temporary directory)")
    chosen = parser.parse_args(arguments)
    processes.reserve("exportkit.core.preload_many")  # the workers that ask the versions are forked, from a process without Ray
    with harness.workplace(chosen.directory) as cwd:
        harness.show(harness.setting(cwd))
        names = fleet(cwd, chosen.models)
        with cluster(chosen.nodes) as lose_one:
            swept = {
                "undisturbed": sweep(cwd, names, "calm"),
                "a raylet killed": sweep(cwd, names, "torn", lose_one),
                "that sweep again": sweep(cwd, names, "torn"),
            }
        show(swept, chosen.nodes)
        harness.show(f"versions that verify: {verified(cwd)}; {harness.setting(cwd)}")


@contextmanager
def cluster(nodes: int) -> Iterator[Callable[[], None]]:
    """Start a cluster on this machine, named by RAY_ADDRESS; yield a function that kills one of its raylets."""
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_DEDUP_LOGS="0")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False, "include_log_monitor": False}
    running = Cluster(initialize_head=True, head_node_args=node)
    try:
        raylets = [running.add_node(**node) for _ in range(nodes - 1)]
        os.environ["RAY_ADDRESS"] = running.address
        yield lambda: lose(running, raylets.pop())
    finally:
        running.shutdown()


def lose(running, node) -> None:
    """Simulate the loss of a machine: kill a raylet, and its workers before they can report anything."""
    (raylet,) = node.all_processes["raylet"]
    for worker in harness.below(raylet.process.pid):
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    running.remove_node(node, allow_graceful=False)


def sweep(cwd: Path, names: Sequence[str], exports: str, on_third: Callable[[], None] | None = None) -> Swept:
    """Export the models below `exports`; `on_third` is called when a third of the jobs have ended."""
    record = cwd / f"record_{exports}_{time.time_ns()}"
    words = [f"model={','.join(names)}", f"export_dir={exports}/${{name}}", f"hydra.sweep.dir={record.name}"]
    command = [sys.executable, "-m", "exportkit", "-m", *words, "hydra/launcher=ray_cluster"]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if on_third:
        threading.Thread(target=disturb, args=(process, record, len(names) // 3, on_third)).start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - started
    if not (record / "sweep.json").is_file():
        raise SystemExit(output)
    jobs = json.loads((record / "sweep.json").read_text())["jobs"]
    versions = {name: sorted(path.name for path in (cwd / exports / name).glob("[0-9]*")) for name in names}
    return Swept(seconds, Counter(job["status"] for job in jobs), output.count(AGAIN), versions)


def disturb(process: subprocess.Popen, record: Path, ended: int, then: Callable[[], None]) -> None:
    """Call `then` when so many jobs have ended and two are running, one of them on the machine that will be lost."""
    while process.poll() is None:
        done, begun = (len(list(record.glob(f"*/{file}.json"))) for file in ("job", "attempt"))
        if done >= ended and begun >= done + 2:
            return then()
        time.sleep(0.02)


def verified(cwd: Path) -> str:
    """Return how many of all versions pass what `exportkit verify` checks: files and answers."""
    versions = sorted(cwd.glob("*/digits_*/[0-9]*"))
    good = sum(all(finding.passed is not False for finding in verify_version(path)) for path in versions)
    return f"{good} of {len(versions)}"


def show(swept: dict[str, Swept], nodes: int) -> None:
    rows = [
        [
            way,
            f"{one.seconds:.1f}",
            ", ".join(f"{number} {status}" for status, number in one.counts.items()),
            str(one.again),
            ", ".join(f"{count} with {each}" for each, count in sorted(Counter(map(len, one.versions.values())).items())),
        ]
        for way, one in swept.items()
    ]
    harness.table(f"{nodes} raylets", ("sweep", "seconds", "jobs", "ran again", "models with so many versions"), rows)


if __name__ == "__main__":
    main()
