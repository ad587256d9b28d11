"""The warmup file of a version: requests that TensorFlow Serving sends to a model before it becomes available.

A request that fails, or one too many, makes the load of the model fail; so all are checked and replayed here first.
"""

import os
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import google_crc32c

from exportkit.checkpoint.sstable import mask
from exportkit.errors import Problem, StepFailed, did_you_mean
from exportkit.samples import tfexample
from exportkit.serving import loading, native
from exportkit.serving.loading import Request
from exportkit.serving.prediction_log import Logged, decode, encode
from exportkit.spec import METHODS

FILE = Path("assets.extra", "tf_serving_warmup_requests")
MOST = 1000  # kMaxNumRecords in TensorFlow Serving's util.h
TIMEOUT = 600.0

Numbered = tuple[int, Logged]  # the number of a record, and a request in it


def write_warmup(directory: Path, model: str, requests: Iterable[Logged], repeat: int = 1) -> int:
    """Write the warmup file of the version `directory`, and return its number of records.

    Equal requests are written once; the whole list is repeated `repeat` times.

    Raises:
        StepFailed: there are more than a server accepts (`MOST`).
    """
    records = list(dict.fromkeys(encode(model, logged) for logged in requests)) * repeat
    if len(records) > MOST:
        raise StepFailed(too_many(str(directory / FILE), len(records)))
    (directory / FILE).parent.mkdir(exist_ok=True)
    (directory / FILE).write_bytes(b"".join(map(_framed, records)))
    return len(records)


def _framed(record: bytes) -> bytes:
    """Return a record of a TFRecord file: its length, the checksum of that, its bytes and their checksum."""
    length = struct.pack("<Q", len(record))
    return length + _checksum(length) + record + _checksum(record)


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", mask(google_crc32c.value(data)))


def too_many(where: str, number: int) -> Problem:
    """Return the problem of more records than a server accepts."""
    what = f"{number} warmup records, and a server refuses to load a model with more than {MOST}"
    return Problem(where, what, "take fewer batch_sizes, or repeat them less often")


def read_warmup(path: str | os.PathLike[str]) -> list[Numbered]:
    """Return the requests in any warmup file, with the numbers of their records (from 0).

    Raises:
        StepFailed: a server could not read the file, or would refuse its number of records.
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
    directory: str | os.PathLike[str],
    tags: Sequence[str],
    requests: Sequence[Numbered],
    config: Any = None,
    allowed: Collection[str] = (),
) -> list[float]:
    """Run the requests on the version, as a server does when it loads it, and return the seconds that each took.

    Args:
        allowed: what the version may do beyond computing its answers, as in `allow.ops` of a config.

    Raises:
        StepFailed: names each record that would make the load fail, with TensorFlow's own message.
    """
    signatures = loading.meta_graph(directory, tags).signature_def
    if problems := list(_misaddressed(os.fspath(directory), signatures, requests)):
        raise StepFailed(*problems)
    names = {f"record {number} ({logged.signature})": logged for number, logged in requests}
    asked = [Request(logged.signature, logged.inputs, name) for name, logged in names.items()]
    return native.run_signatures(directory, tags, asked, timeout=TIMEOUT, config=config, allowed=allowed).run_seconds


def _misaddressed(where: str, signatures: Any, requests: Iterable[Numbered]) -> Iterator[Problem]:
    """Yield a problem for each request to a missing signature or by a wrong method (predict accepts every signature)."""
    for number, logged in requests:
        if logged.signature not in signatures:
            what = f"record {number}: there is no signature '{logged.signature}'"
            yield Problem(where, what, did_you_mean(logged.signature, signatures))
            continue
        method = signatures[logged.signature].method_name
        if logged.method != "predict" and method != METHODS.get(logged.method):
            yield Problem(where, f"record {number}: {logged.method} of '{logged.signature}', which is of method {method}")
