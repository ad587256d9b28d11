"""Whether a live server answers what was recorded of a version: its samples are sent, and the answers compared.

Three outcomes: all answers are equal; one is different; or the server could not be asked.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from exportkit.clients import contract as contracts
from exportkit.clients.contract import Contract
from exportkit.clients.runtime.messages import ContractChanged, ServerError
from exportkit.clients.runtime.metadata import differences
from exportkit.clients.runtime.rest import NOT_BY_REST
from exportkit.clients.runtime.servers import GrpcServer, RestServer, SyncServer
from exportkit.clients.runtime.tensors import Signature, Tensor
from exportkit.errors import ConfigError, ExportKitError, Problem
from exportkit.verifying.audit import recorded
from exportkit.verifying.audit.runs import difference
from exportkit.version.identity import file_digest
from exportkit.version.manifest import FILE, read_manifest_file

EQUAL, DIFFERENT, NOT_ASKED, NOT_COMPARED = "equal", "different", "not asked", "not compared"
EXIT_CODES = {EQUAL: 0, DIFFERENT: 1, NOT_ASKED: 2}
GRPC, REST = "gRPC", "REST"
SERVERS: Mapping[str, type[SyncServer]] = {GRPC: GrpcServer, REST: RestServer}
# where the server cannot answer now, or not us; any other refusal of a request that was once answered is another answer
_CANNOT = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED"}
_CANNOT |= {"PERMISSION_DENIED", "UNIMPLEMENTED", "401", "403", "404", "407", "408", "429", "501", "502", "503", "504"}


@dataclass(frozen=True)
class Target:
    """A model on a server, and how it is asked.

    Attributes:
        addresses: gRPC or REST → where the server listens for it.
        options: those of `exportkit.clients.runtime.servers.Server` (model, version, label, timeout, tls …).
        requests: how often each sample is sent.
        tolerances: ``atol`` and ``rtol`` that replace those of the manifest.
    """

    addresses: Mapping[str, str]
    options: Mapping[str, Any]
    requests: int = 20
    tolerances: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Checked:
    """What came of one signature, asked one way.

    Attributes:
        signature: its key; empty where it is about all of them.
        by: gRPC or REST.
        outcome: equal, different, not asked or not compared.
        version: the one that answered, where the server said so.
        detail: why, or how it differs.
        seconds: of each request.
    """

    signature: str
    by: str
    outcome: str
    version: int | None = None
    detail: str = ""
    seconds: Sequence[float] = ()


@dataclass(frozen=True)
class Record:
    """A manifest, the contract in it, and the version's directory where it lies in one."""

    manifest: Mapping[str, Any]
    contract: Contract
    directory: Path | None

    def inputs(self, key: str) -> Mapping[str, np.ndarray] | None:
        """Return the recorded inputs of a signature; None where their values are not at hand."""
        sample = self.manifest.get("samples", {}).get(key)
        if self.directory is not None:
            return recorded.inputs(self.directory, sample)
        example = self.contract.signatures[key].example
        return None if example is None else example.inputs


def read_record(against: Path, version: int | None) -> Record:
    """Return what was recorded of a version.

    Args:
        against: the version's directory, its manifest's file wherever that lies, or a base path.
        version: the number of the version below a base path.

    Raises:
        ConfigError: there is none, or it has no manifest.
        StepFailed: the manifest was changed, or states what cannot be.
    """
    if against.is_file():
        directory = next((one for one in against.parents if one / FILE == against), None)
        return _record(against, directory)
    directory = contracts.version_directory(against)
    if directory != against and version is not None:
        directory = against / str(version)
        if not directory.is_dir():
            what = f"version {version} answers, which is not in {against}"
            raise ConfigError(Problem("", what, "name the version that is served with --against"))
    return _record(directory / FILE, directory)


def check(against: Path) -> None:
    """Raise what `read_record` raises, as far as that does not depend on the version that answers."""
    if against.is_file() or contracts.version_directory(against) == against:
        read_record(against, None)


def _record(path: Path, directory: Path | None) -> Record:
    manifest = read_manifest_file(path)
    if manifest is None:
        raise ConfigError(Problem(str(path), "does not exist, so nothing is recorded", "export with the step manifest"))
    return Record(manifest, contracts.from_manifest(manifest, None, file_digest(path)), directory)


def probe(target: Target, against: Path) -> list[Checked]:
    """Ask a server by all addresses of `target`, and compare it with what `read_record` finds at `against`."""
    return [one for by in target.addresses for one in _by(target, by, against)]


def outcome(checked: Sequence[Checked]) -> str:
    """Return the outcome of a probe: different where anything is; equal where something was compared and all was asked."""
    found = {one.outcome for one in checked}
    if DIFFERENT in found:
        return DIFFERENT
    return EQUAL if EQUAL in found and NOT_ASKED not in found else NOT_ASKED


def percentile(seconds: Sequence[float], percent: int) -> float:
    """Return the nearest-rank percentile: the smallest value that `percent` of all do not exceed."""
    return sorted(seconds)[max(ceil(len(seconds) * percent / 100), 1) - 1]


def _by(target: Target, by: str, against: Path) -> Iterator[Checked]:
    signatures: dict[str, Signature] = {}  # known when the server has said which version it serves
    asking = type("Asked", (SERVERS[by],), {"SIGNATURES": signatures})
    with asking(target.addresses[by], attempts=1, **target.options) as server:
        try:
            stated = server.metadata()
            record = read_record(against, stated.version)
        except (ServerError, ExportKitError, OSError) as error:
            yield Checked("", by, NOT_ASKED, detail=str(error))
            return
        signatures |= {key: _signature(one) for key, one in record.contract.signatures.items()}
        for text in differences(signatures, stated.signatures):
            yield Checked("", by, DIFFERENT, stated.version, text)
        for key in signatures:
            one = _checked(server, by, key, record, target)
            yield _same_version(one if one.version is not None else replace(one, version=stated.version), stated.version)


def _same_version(one: Checked, version: int | None) -> Checked:
    """Return `one`; as not asked where another version answered than the one that was looked up."""
    if version is None or one.version == version:
        return one
    return replace(one, outcome=NOT_ASKED, detail=f"version {version} was replaced by {one.version} meanwhile")


def _signature(signature: contracts.Signature) -> Signature:
    """Return a signature as the runtime asks it: by its recorded tf.Examples, not by their features."""
    inputs, outputs = (
        {alias: Tensor(one.dtype, one.shape) for alias, one in side.items()} for side in (signature.inputs, signature.outputs)
    )
    return Signature(signature.method, inputs, outputs)


def _checked(server: SyncServer, by: str, key: str, record: Record, target: Target) -> Checked:
    """Ask one signature its sample, as often as the target says, and compare the answers."""
    asked = server.SIGNATURES[key]
    barred = [alias for alias, one in {**asked.inputs, **asked.outputs}.items() if one.dtype in NOT_BY_REST]
    if by == REST and (barred or not asked.inputs):
        return Checked(key, by, NOT_COMPARED, detail=f"REST cannot carry {', '.join(barred) or 'a request without inputs'}")
    try:
        inputs = record.inputs(key)
    except ExportKitError as error:
        return Checked(key, by, NOT_ASKED, detail=str(error))
    if inputs is None:
        return Checked(key, by, NOT_COMPARED, detail="no sample of it is recorded")
    seconds: list[float] = []
    version, texts = None, dict[str, None]()
    for _ in range(target.requests):
        started = perf_counter()
        try:
            answer = server.ask(key, inputs)
        except (ServerError, ContractChanged) as error:
            cannot = isinstance(error, ServerError) and error.code in _CANNOT
            return Checked(key, by, NOT_ASKED if cannot else DIFFERENT, version, f"refused: {error}", seconds)
        except (TypeError, ValueError) as error:
            return Checked(key, by, NOT_ASKED, version, f"its sample does not fit its signature: {error}", seconds)
        seconds.append(perf_counter() - started)
        version = answer.version
        texts |= dict.fromkeys(_differences(record, key, answer.outputs, target.tolerances))
    if texts:
        return Checked(key, by, DIFFERENT, version, "; ".join(texts), seconds)
    if record.manifest["samples"][key]["outputs"] is None:
        return Checked(key, by, NOT_COMPARED, version, "answers, and each time differently when it was exported", seconds)
    return Checked(key, by, EQUAL, version, "", seconds)


def _differences(record: Record, key: str, outputs: Mapping[str, np.ndarray], tolerances: Mapping[str, float]) -> Iterator[str]:
    stated = {"atol": 0.0, "rtol": 0.0, **record.manifest.get("tolerances", {})}
    allowed = {name: tolerances.get(name, stated[name]) for name in ("atol", "rtol")}
    for alias, expected in (record.manifest["samples"][key]["outputs"] or {}).items():
        if text := difference(expected, outputs.get(alias), allowed):
            yield f"{alias} {text}"
