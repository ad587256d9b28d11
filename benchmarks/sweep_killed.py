"""Kill sweeps in the middle, and run two at once; check what they leave, and that the next one completes them.

``python benchmarks/sweep_killed.py [--times 20] [--twins 5] [--models 6]`` trains the digits example and sweeps over a fleet of
copies. Each time the whole fleet is new; the sweep is killed (SIGKILL) at a random moment, once alone, once with all its
processes; then the same command runs to its end. After the kill no version may be half-written; after the rerun every model has
exactly one whole version, and nothing is left over.

Then the same sweep is started twice at the same moment: each model must end with as many whole versions as were reported as
exported, at least one, and the next sweep finds all unchanged.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import harness
import sweep

from exportkit.verifying.audit import verify_version


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Sweeps that are killed, and started again.")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--twins", type=int, default=5)
    parser.add_argument("--models", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, help="where to work (default: the system's temporary directory)")
    chosen = parser.parse_args(arguments)
    moments = random.Random(chosen.seed)
    with harness.workplace(chosen.directory) as cwd:
        harness.show(harness.setting(cwd))
        names = sweep.fleet(cwd, chosen.models)
        whole = timed(cwd, names)
        rows = [one(cwd, names, moments.uniform(0.05, 1.0) * whole, alone=bool(n % 2)) for n in range(chosen.times)]
        columns = ("", "killed after s", "whole versions", "left in staging", "rerun s", "unchanged", "exported", "wrong")
        harness.table(f"{chosen.models} models, killed {chosen.times} times; a sweep takes {whole:.1f} s", columns, rows)
        wrong = sum(int(row[-1]) for row in rows)
        found = [twins(cwd, names) for _ in range(chosen.twins)]
        for problem in (problem for _, problems in found for problem in problems):
            harness.show(f"wrong: {problem}")
        kept = sum(not problems for _, problems in found)
        harness.show(f"two sweeps at once: {kept} of {chosen.twins} as they should be; versions: {[n for n, _ in found]}")
        harness.show(f"{chosen.times - wrong} of {chosen.times} reruns completed; {harness.setting(cwd)}")


def timed(cwd: Path, names: Sequence[str]) -> float:
    started = time.monotonic()
    subprocess.run(command(names), cwd=cwd, check=True, capture_output=True)
    return time.monotonic() - started


def command(names: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "exportkit", "-m", f"model={','.join(names)}"]


def one(cwd: Path, names: Sequence[str], seconds: float, alone: bool) -> list[str]:
    """Kill a sweep over a new fleet after some seconds, and run it again."""
    _clear(cwd)
    scratch = cwd / "scratch"
    scratch.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(scratch)}
    killed = subprocess.Popen(
        command(names), cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    time.sleep(seconds)
    (os.kill if alone else os.killpg)(killed.pid, signal.SIGKILL)
    killed.wait()
    _wait_for_all(killed.pid)
    whole, broken = versions(cwd)
    staged = len(list((cwd / "exports").glob("*/.*.staging")))
    again = subprocess.run(command(names), cwd=cwd, env=environment, capture_output=True, text=True)
    wrong = problems(cwd, names, again, broken, scratch)
    for problem in wrong:
        harness.show(f"wrong: {problem}")
    counts = [again.stdout.count(f"  {status} ") for status in ("unchanged", "exported")]
    took = again.stdout.rpartition(" in ")[2].split(" s")[0]
    label = "the sweep alone" if alone else "all processes"
    return [label, f"{seconds:.1f}", str(whole), str(staged), took, *map(str, counts), str(int(bool(wrong)))]


def _wait_for_all(session: int, seconds: float = 60.0) -> None:
    """Wait until no process of a session is left: what a sweep started ends by itself when the sweep is gone."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and _any_of(session):
        time.sleep(0.05)


def _any_of(session: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, its_session, *_ = stat.read_text().rpartition(")")[2].split()
            if state != "Z" and int(its_session) == session:
                return True
    return False


def twins(cwd: Path, names: Sequence[str]) -> tuple[int, list[str]]:
    """Start the sweep over a new fleet twice at once, then once more; return the number of versions, and the problems."""
    _clear(cwd)
    both = [subprocess.Popen(command(names), cwd=cwd, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [one.communicate()[0] for one in both]
    number, found = versions(cwd)
    exported = sum(text.count("  exported ") for text in printed)
    found += [f"a sweep ended with {one.returncode}: {text}" for one, text in zip(both, printed, strict=True) if one.returncode]
    if number != exported:
        found.append(f"{exported} were exported, and {number} are there")
    again = subprocess.run(command(names), cwd=cwd, capture_output=True, text=True)
    if again.stdout.count("  unchanged ") != len(names):
        found.append(f"the next sweep: {again.stdout}{again.stderr}")
    left = list((cwd / "exports").glob("*/.*.staging"))
    return number, [*found, *(f"left: {path}" for path in left)]


def _clear(cwd: Path) -> None:
    for leftover in ("exports", ".exportkit"):
        shutil.rmtree(cwd / leftover, ignore_errors=True)


def versions(cwd: Path) -> tuple[int, list[str]]:
    """Return the number of versions, and their problems."""
    found = [path for path in (cwd / "exports").glob("*/*") if path.name.isdecimal()]
    wrong = [f"{path}: {f}" for path in found for f in verify_version(path, run=False) if f.passed is False]
    return len(found), wrong


def problems(
    cwd: Path, names: Sequence[str], again: subprocess.CompletedProcess, broken: list[str], scratch: Path
) -> list[str]:
    """Return the problems that are left after the rerun."""
    found = list(broken)
    if again.returncode:
        found.append(f"the rerun ended with {again.returncode}: {again.stdout}{again.stderr}")
    there = {name: sorted(os.listdir(cwd / "exports" / name)) for name in names if (cwd / "exports" / name).is_dir()}
    found += [f"{name} has {there.get(name)}" for name in names if there.get(name) != ["1"]]
    found += versions(cwd)[1]
    found += [f"left in TMPDIR: {path.name}" for path in scratch.glob("exportkit*")]
    return found


if __name__ == "__main__":
    main()
