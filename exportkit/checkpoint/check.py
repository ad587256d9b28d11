"""A copied checkpoint compared with the sources of its tensors: the indexes with each other, every byte with its checksum."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from exportkit.checkpoint import encoding
from exportkit.checkpoint.index import Entry
from exportkit.checkpoint.readback import Readback
from exportkit.checkpoint.reader import Bundle
from exportkit.errors import Problem, WeightsError


@dataclass(frozen=True)
class Copied:
    """What was found equal to its source.

    Attributes:
        tensors: number of tensors that have the dtype, shape and checksums of their source.
        size: bytes that were read back from the written data files.
    """

    tensors: int
    size: int


def check_copied(written: Bundle | str, sources: Mapping[str, tuple[Bundle, str]], readback: Readback | None = None) -> Copied:
    """Read a written checkpoint back, in the order of the file, and compare it with the sources of its tensors.

    Every tensor in `written` is read and must have its checksum, also those that are not in `sources`.

    Args:
        written: the checkpoint, or its prefix.
        sources: for each tensor that was copied, the checkpoint that it came from and its key there.
        readback: what was read back while it was written; the parts that it confirms are not read once more.

    Raises:
        WeightsError: names all tensors that are missing, differ from their source or do not have their checksum. Where
            the bytes of the source do not have their checksum either, the problem names the source.
    """
    written = written if isinstance(written, Bundle) else Bundle(written)
    problems = [problem for name, source in sources.items() if (problem := _compare_checksums(written, name, *source))]
    pieces = [(part.shard, part.offset, entry, part) for entry in written.entries.values() for part in entry.parts]
    for _, _, entry, part in sorted(pieces, key=lambda piece: piece[:2]):
        if readback and readback.confirms(written, entry, part):
            continue
        try:
            written.verify_part(entry, part)
        except WeightsError as error:
            problems += _damaged_source(sources.get(entry.key), error).problems
    if problems:
        raise WeightsError(*dict.fromkeys(problems))
    return Copied(len(sources), sum(entry.size for entry in written.entries.values()))


def _damaged_source(source: tuple[Bundle, str] | None, error: WeightsError) -> WeightsError:
    """Return the source's own error where its bytes are wrong too (index and data of two saves, for example), else `error`."""
    if source is None:
        return error
    try:
        source[0].verify(source[1])
    except WeightsError as older:
        mixed = "its index and its data are of two different saves, or it was damaged: copy both again"
        return WeightsError(*(replace(problem, do=mixed) for problem in older.problems))
    return error


def _compare_checksums(written: Bundle, name: str, source: Bundle, key: str) -> Problem | None:
    """Return the problem of a tensor that is missing or whose dtype, shape or checksums are not those of its source."""
    if name not in written.entries:
        return Problem(written.prefix, f"lacks {name!r}", "export again")
    if _fingerprint(written.entries[name]) == _source_fingerprint(source, key):
        return None
    return Problem(written.prefix, f"{name!r} is not the tensor {key!r} of {source.prefix}", "export again")


def _fingerprint(entry: Entry) -> tuple:
    return entry.dtype, entry.shape, tuple((part.size, part.crc32c, part.extents) for part in entry.parts)


def _source_fingerprint(source: Bundle, key: str) -> tuple:
    """Return dtype, shape and checksums; a V1 source stores none of tensors, so its value gets those of V2."""
    entry = source.entry(key)
    if source.format == "V2":
        return _fingerprint(entry)
    data = encoding.payload(key, array := source.read(key))
    return entry.dtype, entry.shape, ((len(data), encoding.payload_checksum(entry.dtype, array.size, data), None),)
