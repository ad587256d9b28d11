"""The warmup file of a version: requests that TensorFlow Serving sends to a model before it becomes available.

One request that fails, or one too many, fails the load of the model: every one is checked and replayed here first.
"""

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import google_crc32c

from exportkit.checkpoint.sstable import mask
from exportkit.errors import Problem, StepFailed, did_you_mean
from exportkit.samples import tfexample
from exportkit.serving import native
from exportkit.serving.native import Request
from exportkit.serving.prediction_log import Logged, decode, encode
from exportkit.spec import METHODS

FILE = Path("assets.extra", "tf_serving_warmup_requests")
MOST = 1000  # kMaxNumRecords in TensorFlow Serving's util.h
TIMEOUT = 600.0

Numbered = tuple[int, Logged]


def write_warmup(directory: Path, model: str, requests: Iterable[Logged], repeat: int = 1) -> int:
    """Write the requests into the version `directory`, each once and the whole `repeat` times; returns the number of records.

    Raises:
        StepFailed: they are more than a server takes.
    """
    records = list(dict.fromkeys(encode(model, logged) for logged in requests)) * repeat
    if len(records) > MOST:
        raise StepFailed(too_many(str(directory / FILE), len(records)))
    (directory / FILE).parent.mkdir(exist_ok=True)
    (directory / FILE).write_bytes(b"".join(map(_framed, records)))
    return len(records)


def _framed(record: bytes) -> bytes:
    """A record of a TFRecord file: its length, the checksum of that, its bytes and their checksum."""
    length = struct.pack("<Q", len(record))
    return length + _checksum(length) + record + _checksum(record)


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", mask(google_crc32c.value(data)))


def too_many(where: str, number: int) -> Problem:
    """The refusal of more records than a server takes."""
    what = f"{number} warmup records, and a server refuses to load a model with more than {MOST}"
    return Problem(where, what, "take fewer batch_sizes, or repeat them less often")


def read_warmup(path: str | os.PathLike[str]) -> list[Numbered]:
    """The requests of a warmup file, whoever wrote it, with the numbers of their records (from 0).

    Raises:
        StepFailed: a server would not read it.
    """
    where = os.fspath(path)
    try:
        records = list(tfexample.records(Path(path)))
    except ValueError as error:
        raise StepFailed(Problem(where, str(error), "a server reads an uncompressed TFRecord")) from None
    if len(records) > MOST:
        raise StepFailed(too_many(where, len(records)))
    found: list[Numbered] = []
    for number, record in enumerate(records):
        try:
            found += [(number, logged) for logged in decode(record)]
        except ValueError as error:
            raise StepFailed(Problem(where, f"record {number} {error}", "write it again")) from None
    return found


def replay(
    directory: str | os.PathLike[str], tags: Sequence[str], requests: Sequence[Numbered], config: Any = None
) -> list[float]:
    """Send the requests to the version, as a server that loads it would; returns the seconds that each took.

    Raises:
        StepFailed: names each record that would fail the load, with the server's own message.
    """
    signatures = native.meta_graph(directory, tags).signature_def
    if problems := list(_misaddressed(os.fspath(directory), signatures, requests)):
        raise StepFailed(*problems)
    names = {f"record {number} ({logged.signature})": logged for number, logged in requests}
    asked = [Request(logged.signature, logged.inputs, name) for name, logged in names.items()]
    return native.run_signatures(directory, tags, asked, timeout=TIMEOUT, config=config).run_seconds


def _misaddressed(where: str, signatures: Any, requests: Iterable[Numbered]) -> Iterator[Problem]:
    """Requests to signatures that are not there, or that are to be called in another way (predict takes them all)."""
    for number, logged in requests:
        if logged.signature not in signatures:
            what = f"record {number}: there is no signature '{logged.signature}'"
            yield Problem(where, what, did_you_mean(logged.signature, signatures))
            continue
        method = signatures[logged.signature].method_name
        if logged.method != "predict" and method != METHODS.get(logged.method):
            yield Problem(where, f"record {number}: {logged.method} of '{logged.signature}', which is of method {method}")
