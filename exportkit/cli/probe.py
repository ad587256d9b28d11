"""``exportkit probe HOST:PORT NAME`` asks a live server whether it answers what was recorded of a version.

The version's manifest is read, and nothing of it is run here; TensorFlow is not imported.
"""

import argparse
import json
import os
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exportkit import files
from exportkit.cli.numbers import count, seconds, tolerance, version
from exportkit.cli.tables import line, table
from exportkit.contract import Command
from exportkit.errors import ConfigError, ExportKitError, Problem, system_error
from exportkit.modelserver import PORT

if TYPE_CHECKING:
    from exportkit.clients.probe import Checked, Target

PERCENTILES = (50, 90, 99)


class ProbeCommand(Command):
    """Ask a live server whether it answers what was recorded of a version, by gRPC and by REST, with the manifest's samples.
    Exits with 0 where all answers are equal, with 1 where one is different, and with 2 where the server could not be asked.
    """

    name = "probe"
    help = "ask a live server whether it answers what was exported"
    usage = "HOST:PORT NAME"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("server", metavar="HOST:PORT", help=f"where the server listens for gRPC, as localhost:{PORT}")
        add("model", metavar="NAME", help="the model's name there")
        add(
            "--against",
            metavar="PATH",
            type=Path,
            help="what its answers are compared with: a version's directory, a base path (the version in it that answers), "
            "or a manifest's file (default: the base path exports/NAME)",
        )
        add("--rest", metavar="HOST:PORT", help="where it listens for REST (default: the port above that of gRPC)")
        add("--only", choices=["grpc", "rest"], help="ask by one of them; HOST:PORT is then that of this one")
        chosen = parser.add_mutually_exclusive_group()
        chosen.add_argument("--version", metavar="N", type=version, help="ask this version (default: the server chooses)")
        chosen.add_argument("--label", metavar="LABEL", help="ask the version that has this label")
        add("--requests", metavar="N", type=count, default=20, help="how often each sample is sent (default: 20)")
        add("--timeout", metavar="SECONDS", type=seconds, default=10.0, help="of each request (default: 10)")
        add("--atol", type=tolerance, help="how far answers may be from the recorded ones (default: as exported)")
        add("--rtol", type=tolerance, help="the same, relative to their size")
        add("--tls", action="store_true", help="ask by TLS")
        add("--ca", metavar="PEM", type=Path, help="ask by TLS, and trust the authorities in this file, not the system's")
        add("--watch", metavar="SECONDS", type=seconds, help="ask again after so many seconds, until it is interrupted")
        add("--json", action="store_true", help="print the result as JSON, on one line where it is watched")

    def run(self, arguments: Sequence[str]) -> int:
        """Print what came of each signature, and the outcome; return its exit code."""
        options = self.parse(arguments)
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the outcome says what is wrong; its log would be beside that

        from exportkit.clients import probe  # with NumPy and gRPC, which help does not need

        try:
            target, against = _target(options), _against(options)
            probe.check(against)
        except (ExportKitError, OSError) as error:  # 1 would say that an answer is different
            problems = error.problems if isinstance(error, ExportKitError) else system_error(error, "probe").problems
            raise ConfigError(*problems) from error
        while True:
            checked = probe.probe(target, against)
            _show(options, checked, probe.outcome(checked))
            if options.watch is None:
                return probe.EXIT_CODES[probe.outcome(checked)]
            time.sleep(options.watch)


def _target(options: argparse.Namespace) -> "Target":
    from exportkit.clients import probe
    from exportkit.clients.runtime.servers import Tls

    tls = Tls(options.ca) if options.tls or options.ca else None
    if tls is not None:
        try:
            tls.context()
        except OSError as error:
            why = f"cannot be read: {(error.strerror or '').lower()}"
            what = "holds no certificates" if isinstance(error, ssl.SSLError) else why
            raise ConfigError(Problem(f"--ca {options.ca}", what, "name a file of certificates in PEM format")) from None
    asked = {"model": options.model, "version": options.version, "label": options.label, "timeout": options.timeout, "tls": tls}
    tolerances = {name: getattr(options, name) for name in ("atol", "rtol") if getattr(options, name) is not None}
    return probe.Target(dict(_addresses(options)), asked, options.requests, tolerances)


def _against(options: argparse.Namespace) -> Path:
    """Return what the answers are compared with."""
    path = options.against or Path("exports", options.model)
    if not path.exists():
        near = files.similar(path)
        do = f"{near}{' or ' if near else ''}name the version that is served: --against VERSION_DIR, BASE_PATH or MANIFEST"
        raise ConfigError(Problem(str(path), "does not exist, so there is nothing to compare with", do))
    return path


def _addresses(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield how the server is asked, and where it listens for that.

    Raises:
        ConfigError: a port is missing, or is none.
    """
    host, port = _split("HOST:PORT", options.server)
    if options.only and options.rest:
        raise ConfigError(Problem("--rest", f"has no effect beside --only {options.only}", "leave one of them out"))
    if options.only != "rest":
        yield "gRPC", options.server
    if options.only == "rest":
        yield "REST", options.server
    elif options.only is None and options.rest is None:
        yield "REST", f"{host}:{port + 1}"
    elif options.only is None:
        _split("--rest", options.rest)
        yield "REST", options.rest


def _split(where: str, address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigError(Problem(where, f"'{address}' is no address", f"write a host and a port, as localhost:{PORT}"))
    return host, int(port)


def _show(options: argparse.Namespace, checked: Sequence["Checked"], outcome: str) -> None:
    """Print the result: as JSON, as a line for a log, or as a table and a line."""
    if options.json:
        line(json.dumps(_plain(options, checked, outcome), indent=None if options.watch else 2))
        return
    if options.watch is None:
        columns = ["signature", "by", "version", "answers", *(f"p{percent} ms" for percent in PERCENTILES)]
        table(f"{options.model} at {options.server}", columns, [_row(one) for one in checked])
        line()
    stamp = "" if options.watch is None else f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} "
    line(f"{stamp}{_summary(options, checked, outcome)}")


def _row(one: "Checked") -> Sequence[str]:
    answers = f"{one.outcome}: {one.detail}" if one.detail else one.outcome
    times = [f"{value:.1f}" for value in _latencies(one).values()] or ["-"] * len(PERCENTILES)
    return (one.signature or "-", one.by, "-" if one.version is None else str(one.version), answers, *times)


def _latencies(one: "Checked") -> dict[str, float]:
    """Return the percentiles of the latencies, in milliseconds; nothing where nothing was answered."""
    from exportkit.clients.probe import percentile

    return {f"p{percent}": 1000 * percentile(one.seconds, percent) for percent in PERCENTILES} if one.seconds else {}


def _summary(options: argparse.Namespace, checked: Sequence["Checked"], outcome: str) -> str:
    """Return the outcome in one line, with the first reason where it is not "equal"."""
    versions = sorted({one.version for one in checked if one.version is not None})
    found = [one for one in checked if one.outcome == outcome]
    facts = [f"{_counted('version', len(versions))} {', '.join(map(str, versions))}"] if versions else []
    if outcome == "equal":
        compared = len({one.signature for one in found})
        facts.append(f"{compared} {_counted('signature', compared)} by {' and '.join(dict.fromkeys(one.by for one in found))}")
    facts += [f"{' '.join(filter(None, [one.by, one.signature]))}: {one.detail}" for one in found if one.detail][:1]
    text = "could not be asked" if outcome == "not asked" else outcome
    return f"{options.model} at {options.server}: {', '.join([text, *facts])}"


def _counted(name: str, number: int) -> str:
    return name if number == 1 else f"{name}s"


def _plain(options: argparse.Namespace, checked: Sequence["Checked"], outcome: str) -> Mapping[str, Any]:
    rows = []
    for one in checked:
        stated = asdict(one)
        times = stated.pop("seconds")
        rows.append({**stated, "requests": len(times), "milliseconds": _latencies(one)})
    return {
        "model": options.model,
        "server": options.server,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "outcome": outcome,
        "checked": rows,
    }
