"""Measure `exportkit serve` under load: throughput, latencies and memory, and versions that change meanwhile.

``python benchmarks/serve_load.py [--requests 20000] [--changes 100]``. 16 clients in a process of their own ask the digits
example over gRPC and over REST. Beside them, in the same run: as many threads that ask the same worker directly, without any
server, and a bare loop over ``tf.saved_model.load``.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import quantiles
from time import perf_counter, sleep

import harness
import numpy as np
import serve_client

CLIENTS = 16
CONF = Path(__file__).parents[1] / "conf"
MODEL = "mnist_mlp"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Load: requests per second of a local model server.")
    parser.add_argument("--requests", type=int, default=20_000, help="of each way to ask")
    parser.add_argument("--rows", type=int, default=1, help="of each request")
    parser.add_argument("--changes", type=int, default=100, help="of the version, under load")
    parser.add_argument("--directory", type=Path, help="where to work (default: the system's temporary directory)")
    chosen = parser.parse_args(arguments)
    with harness.workplace(chosen.directory) as cwd:
        harness.show(harness.setting(cwd))
        harness.digits(cwd)
        harness.run([sys.executable, "-m", "exportkit", f"model={MODEL}", "--config-dir", CONF], cwd)
        base = cwd / "exports" / MODEL
        rows = [
            ("tf.saved_model.load, a loop", *python_loop(cwd, base / "1", chosen.requests, chosen.rows), ""),
            (f"the worker, {CLIENTS} threads", *worker(base / "1", chosen.requests, chosen.rows), ""),
        ]
        with Server(cwd, base) as server:
            for kind in ("grpc", "rest"):
                ask(server, kind, min(500, chosen.requests), chosen.rows)
                before = server.memory()
                rows.append(
                    (
                        f"serve, {kind}, {CLIENTS} clients",
                        *ask(server, kind, chosen.requests, chosen.rows),
                        growth(server, before),
                    )
                )
            shown = [(name, *map(str, cells)) for name, *cells in rows]
            columns = (
                f"{chosen.requests} requests of {chosen.rows} rows",
                "a second",
                "p50 ms",
                "p99 ms",
                "lost",
                "memory, MB",
            )
            harness.table("Load", columns, shown)
            harness.show(changes(server, base, chosen.changes, chosen.rows))
        harness.show(harness.setting(cwd))


class Server:
    """``exportkit serve`` in a process of its own."""

    def __init__(self, cwd: Path, base: Path):
        command = [sys.executable, "-m", "exportkit", "serve", base, "--rest-port", "0", "--grpc-port", "0", "--poll", "0.05"]
        self._process = subprocess.Popen(
            list(map(str, command)), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.events: list[str] = []
        self.ports: dict[str, int] = {}

    def __enter__(self) -> "Server":
        assert self._process.stdout
        for line in self._process.stdout:
            kind, _, address = line.partition(" ")
            if kind in ("REST", "gRPC"):
                self.ports[kind.lower()] = int(address.removesuffix("/v1/models\n").rpartition(":")[2])
            if kind == "gRPC":
                break
        threading.Thread(target=lambda: self.events.extend(self._process.stderr or ()), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def memory(self) -> dict[str, float]:
        """Return the resident memory of the front and of the largest process below it, in MB."""
        return {"server": resident(self._process.pid), "worker": max(map(resident, harness.below(self._process.pid)))}


def resident(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024
    except (OSError, IndexError):  # it has ended
        return 0.0


def growth(server: Server, before: dict[str, float]) -> str:
    after = server.memory()
    return ", ".join(f"{name} {before[name]:.0f} → {after[name]:.0f}" for name in before)


def ask(server: Server, kind: str, requests: int, rows: int) -> tuple[str, str, str, int]:
    command = [sys.executable, serve_client.__file__, kind, server.ports[kind], MODEL, CLIENTS, requests, rows]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    if found["versions"] > 1:
        raise SystemExit(f"{kind}: {found['versions']} different answers to one request")
    return *figures(found["seconds"], found["latencies"]), requests - len(found["latencies"])


def figures(seconds: float, latencies: Sequence[float]) -> tuple[str, str, str]:
    """Return requests a second, and the median and the 99th percentile of their milliseconds."""
    cuts = quantiles(latencies, n=100)
    return f"{len(latencies) / seconds:.0f}", f"{1000 * cuts[49]:.2f}", f"{1000 * cuts[98]:.2f}"


def python_loop(cwd: Path, version: Path, requests: int, rows: int) -> tuple[str, str, str, int]:
    found = harness.script("serve_loop.py", version, requests, rows, cwd=cwd).stages
    return *figures(sum(found["latencies"]), found["latencies"]), 0  # type: ignore[call-overload]  # a list


def worker(version: Path, requests: int, rows: int) -> tuple[str, str, str, int]:
    """Ask the process that a server asks, by as many threads."""
    from exportkit.server.servable import Servable

    servable = Servable(MODEL, 1, version, ["serve"])
    servable.load()
    definition = servable.signatures[serve_client.SIGNATURE]
    images = np.linspace(0, 1, rows * serve_client.FEATURES, dtype=np.float32).reshape(rows, -1)
    feeds, fetches = {definition.inputs["images"].name: images}, [definition.outputs["scores"].name]
    latencies: list[float] = []

    def run() -> None:
        for _ in range(requests // CLIENTS):
            begun = perf_counter()
            servable.run(feeds, fetches, 60)
            latencies.append(perf_counter() - begun)

    with closing(_Closed(servable.unload)):
        run_once = servable.run(feeds, fetches, 60)
        assert run_once[0].shape == (rows, 10)
        threads = [threading.Thread(target=run) for _ in range(CLIENTS)]
        begun = perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = perf_counter() - begun
    return *figures(seconds, latencies), 0


class _Closed:
    def __init__(self, close: Callable[[], None]):
        self.close = close


def changes(server: Server, base: Path, number: int, rows: int) -> str:
    """Publish new versions under load, each as soon as the last one is live, and remove the old ones."""
    before = server.memory()
    command = [sys.executable, serve_client.__file__, "rest", server.ports["rest"], MODEL, CLIENTS, 0, rows]
    client = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    client.stdout.readline()  # the load is there
    begun = perf_counter()
    for version in range(2, number + 2):
        staged = base / f".{version}"
        subprocess.run(["cp", "-al", base / "1", staged], check=True)
        os.rename(staged, base / str(version))
        while f"{MODEL} {version - 1} was unloaded\n" not in server.events:
            sleep(0.01)
    seconds = perf_counter() - begun
    found = json.loads(client.communicate()[0])
    after = growth(server, before)
    answered = f"{len(found['latencies'])} requests, {len(found['failed'])} failed, {found['versions']} different answers"
    return f"{number} changes of the version in {seconds:.0f} s: {answered}; memory, MB: {after} {found['failed'][:3] or ''}"


if __name__ == "__main__":
    main()
