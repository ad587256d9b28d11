"""Read mutated inputs by plan, inspect and verify, and count the outcomes.

``python benchmarks/fuzz.py --inputs 20000 --seed 1``

Many cases run in one forked process, each with limits on its time and its memory. A failure is anything but a sound answer or a
refusal of one line a problem: a traceback, a signal, more than 20 s or 1 GB. It is printed with the number of its case, which
``--only NUMBER`` repeats.
"""

import argparse
import os
import pickle
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

BATCH = 250  # cases in one process
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # with NumPy's threads, TensorFlow is not warmed up before the forks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1, help="the number of the first case")
    parser.add_argument("--export", action="store_true", help="export each case, and compare its answers with TensorFlow's")
    parser.add_argument("--only", type=int, help="run this case alone, and show what it prints")
    parser.add_argument("--models", type=Path, help="a directory for the sound models, which are made once")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="exportkit-fuzz-") as scratch:
        models = _models(options.models or Path(scratch) / "models")
        seeds = [options.only] if options.only is not None else range(options.seed, options.seed + options.inputs)
        if options.export:
            return _exports(models, seeds, Path(scratch))
        load_plugins()  # each process would import them anew, as it would these modules
        import exportkit.cli.sweep.preload  # noqa: F401

        counts: Counter[tuple[str, str]] = Counter()
        for start in range(0, len(seeds), BATCH):
            for seed, kind, outcome, text in _batch(models, seeds[start : start + BATCH], Path(scratch)):
                counts[kind, outcome] += 1
                if outcome == "failed" or options.only is not None:
                    print(f"case {seed} ({kind}): {outcome}: {text}", flush=True)
    kinds = sorted({kind for kind, _ in counts})
    for kind in kinds:
        print(f"{kind:15}", *(f"{counts[kind, outcome]:6} {outcome}" for outcome in ("accepted", "refused", "failed")))
    failed = sum(number for (_, outcome), number in counts.items() if outcome == "failed")
    print(f"{sum(counts.values())} inputs, {failed} failures")
    return min(failed, 1)


def _exports(models, seeds, scratch: Path) -> int:
    """Export each case, compare its answers with TensorFlow's own, and print every case as it ends."""
    import fuzz_exports
    import fuzzlab

    counts: Counter[tuple[str, str]] = Counter()
    slowest, largest = 0.0, 0
    with fuzz_exports.started() as judge:
        fuzz_exports.prepare()
        plugins = fuzzlab.all_plugins()
        for seed in seeds:
            with tempfile.TemporaryDirectory(dir=scratch) as directory:
                case = fuzz_exports.export(models, seed, Path(directory), plugins, judge)
            counts[case.kind, case.outcome] += 1
            slowest, largest = max(slowest, case.seconds), max(largest, case.megabytes)
            print(f"case {seed} ({case.kind}, {case.model}, {case.seconds:.1f} s): {case.outcome}: {case.text}", flush=True)
    for kind in sorted({kind for kind, _ in counts}):
        print(f"{kind:8}", *(f"{counts[kind, outcome]:6} {outcome}" for outcome in fuzz_exports.OUTCOMES))
    failed = sum(number for (_, outcome), number in counts.items() if outcome == "failed")
    print(f"the slowest took {slowest:.1f} s, the largest {largest} MB")
    print(f"{len(seeds)} inputs, {failed} failures")
    return min(failed, 1)


def _models(directory: Path):
    """Make the models in a process of its own, so that TensorFlow is not imported in this one; read them back."""
    kept = directory / "models.pickle"
    if not kept.exists():
        child = os.fork()
        if not child:
            from exportkit import processes
            from exportkit.core.capi import library

            library()
            processes.reserve("exportkit.core.preload")  # the exports of the models fork their workers
            import fuzzlab

            directory.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(pickle.dumps(fuzzlab.models(directory)))
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit("the models could not be made")
    return pickle.loads(kept.read_bytes())


def _batch(models, seeds, scratch: Path):
    """Run cases in one forked process, and those behind it in another one where that process died."""
    seeds = list(seeds)
    while seeds:
        read, write = os.pipe()
        child = _forked(models, seeds, scratch, read, write)
        os.close(write)
        with os.fdopen(read, "rb") as results:
            for result in _results(results):
                yield result
                seeds.remove(result[0])
        status = os.waitpid(child, 0)[1]
        if seeds:
            yield seeds.pop(0), "?", "failed", f"its process ended with status {status}"


def _forked(models, seeds, scratch: Path, read: int, write: int) -> int:
    if child := os.fork():
        return child
    os.close(read)
    try:
        _run(models, seeds, scratch, write)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _results(file):
    while True:
        try:
            yield pickle.load(file)
        except EOFError:
            return


def _run(models, seeds, scratch: Path, write: int) -> None:
    import fuzzlab

    plugins = fuzzlab.all_plugins()
    with os.fdopen(write, "wb") as results:
        for seed in seeds:
            with tempfile.TemporaryDirectory(dir=scratch) as directory:
                os.chdir(directory)
                case = fuzzlab.write(models, seed, Path(directory), plugins)
                outcome, text = fuzzlab.judge(case)
                os.chdir(scratch)
            pickle.dump((seed, f"{case.kind}", outcome, f"[{case.model}] {text}"), results)
            results.flush()


if __name__ == "__main__":
    import exportkit.cli.tables
    import exportkit.planning.plan  # noqa: F401
    from exportkit.registry import load_plugins

    raise SystemExit(main())
