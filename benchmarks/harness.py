"""Helpers of the benchmarks: child processes with their wall time and peak memory, exportkit among them, and tables.

A number means something only beside a baseline measured in the same run, so every row is printed with its ratio. The process
that measures stays small and never imports TensorFlow: a child's peak memory, as the kernel counts it, starts at its parent's.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
IMPORT = "import tensorflow"


@dataclass(frozen=True)
class Run:
    """One child process.

    Attributes:
        seconds: wall time, from its start to its end.
        busy: processor time, in user code and in the kernel; it changes less where others work beside.
        peak: the most memory that it had at once, in bytes (ru_maxrss).
        stages: seconds of parts of it by its own clock; of all that import TensorFlow, those of `IMPORT`.
        synced: seconds that its files took to be on the disk, after its end.
        written: bytes in the files that it left.
        output: what it printed.
    """

    seconds: float
    busy: float
    peak: int
    output: str
    stages: dict[str, float]
    synced: float = 0.0
    written: int = 0

    @property
    def after(self) -> float:
        """Return the seconds from the end of TensorFlow's import to the end of the work, by the child's own clock."""
        return sum(self.stages.values()) - self.stages.get(IMPORT, 0.0)

    @property
    def beside(self) -> float:
        """Return the seconds without TensorFlow's import; the interpreter's start and end and other imports are included."""
        return self.seconds - self.stages.get(IMPORT, 0.0)


def run(command: Sequence[object], cwd: Path) -> Run:
    """Run a command to its end; it may keep the modules that it compiles, as an installation has them compiled.

    Raises:
        RuntimeError: it failed; with what it printed.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    words = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as output:
        started = perf_counter()
        child = subprocess.Popen(words, cwd=cwd, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if child.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {child.returncode}:\n{text}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss, text, {})


def run_tree(command: Sequence[object], cwd: Path) -> Run:
    """Do as `run`; the peak is that of the command and all that it started: their proportional set sizes, read once a second.

    Processes that share what a server of theirs has imported are so counted for it once. A look at the processes of a sweep
    takes a tenth of a second of a core.
    """
    return _watched(command, cwd, 1.0, lambda processes: sum(map(_proportional, processes)))


def _watched(command: Sequence[object], cwd: Path, every: float, memory: Callable[[list[int]], int]) -> Run:
    """Do as `run`; the peak is the most that `memory` returned of the processes below this one, asked every `every` s."""
    me, peak, ended = os.getpid(), [0], threading.Event()

    def look() -> None:
        while not ended.wait(every):
            peak[0] = max(peak[0], memory(below(me)))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        return replace(run(command, cwd), peak=peak[0])
    finally:
        ended.set()
        watcher.join()


def below(parent: int) -> list[int]:
    """Return the processes that `parent` started, and those that these started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, last = [], [parent]
    while last:
        last = [pid for pid, above in parents.items() if above in last]
        found += last
    return found


def _proportional(pid: int) -> int:
    """Return a process's memory in bytes (PSS): of pages that it shares with others, its share."""
    with suppress(OSError, IndexError):
        return 1024 * int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:")[1].split()[0])
    return 0


def _largest(processes: list[int]) -> int:
    """Return the most memory in bytes that any of these processes had at once (VmHWM)."""
    found = [0]
    for pid in processes:
        with suppress(OSError, IndexError):
            found.append(1024 * int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]))
    return max(found)


def digits(cwd: Path) -> None:
    """Train the digits example in `cwd`; where DIGITS names a directory in which that was done, copy it."""
    if not (trained := os.environ.get("DIGITS")):
        run([sys.executable, "-m", "exportkit.examples.mnist_mlp"], cwd)
        return
    for name in ("data", "runs"):
        shutil.copytree(Path(trained) / name, cwd / name)


def script(name: str, *arguments: object, cwd: Path) -> Run:
    """Run a script of this directory; the last line that it prints has its stages, as JSON."""
    done = run([sys.executable, HERE / name, *arguments], cwd)
    return replace(done, stages=json.loads(done.output.splitlines()[-1]))


def exportkit(*overrides: str, cwd: Path) -> Run:
    """Run exportkit's command line; its stages are those of its report, its peak that of the largest of its processes.

    Its processor time is that of the first process alone.
    """
    report = cwd / "report.json"
    command = [sys.executable, "-m", "exportkit", *overrides, f"report.path={report}"]
    done = _watched(command, cwd, 0.2, _largest)
    return replace(done, stages=json.loads(report.read_text())["stages"])


def sync(path: Path) -> float:
    """Write the files below `path` to the disk, and return how many seconds that took."""
    files = [p for p in path.rglob("*") if p.is_file()]
    return run(["sync", *files], path).seconds if files else 0.0


def size(path: Path) -> int:
    """Return the size of all files below `path` in bytes."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


@contextmanager
def workplace(parent: Path | None) -> Iterator[Path]:
    """Create a directory to work in, and remove it when the context ends."""
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=parent) as path:
        yield Path(path).resolve()


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, median(values), high


def middle(runs: Sequence[Run], number: Callable[[Run], float]) -> float:
    """Return the median of a number over runs."""
    return median(map(number, runs))


def show_stages(runs: Sequence[Run]) -> None:
    """Print the time of each of exportkit's stages."""
    stages = ", ".join(f"{name} {middle(runs, lambda run, name=name: run.stages[name]):.3f}" for name in runs[0].stages)
    show(f"exportkit's stages, median seconds: {stages}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column names the rows, the others hold numbers."""
    shown = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        shown.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    show(shown)


def show(what: object) -> None:
    """Print to the terminal, or 128 columns wide into a file."""
    console = Console()
    console.width = console.width if console.is_terminal else 128
    console.print(what, highlight=False)


def setting(directory: Path) -> str:
    """Describe where the numbers were measured: the machine, how busy it is, and the file system."""
    busy = ", ".join(f"{load:.2f}" for load in os.getloadavg())
    kind = subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True).stdout.strip()
    return f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load average {busy}, files on {kind or 'unknown'}"
