"""The LevelDB table format of checkpoint indexes: sorted keys and values in checksummed blocks.

A table is data blocks, an empty metaindex block, an index block and a footer of 48 bytes. A block is entries that share
prefixes with their predecessors, the restart points, a type byte (0: plain, 1: Snappy) and a masked CRC-32C of all these.
Layout: LevelDB's ``doc/table_format.md``; block size, restart interval and separators: TensorFlow's
``core/lib/io/table_builder.cc``, so that the same entries give the bytes that TensorFlow would write.

Malformed data raises ValueError or IndexError; the caller knows the file's name and turns that into a WeightsError. Keys that
share prefixes and compressed blocks take far more memory than the file, so what they expand to is bounded before it is made.
"""

import bisect
import mmap
import struct
from collections.abc import Iterable, Iterator

import google_crc32c

MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER = 48
_TRAILER = 5
_BLOCK_SIZE = 256 * 1024
_RESTART_INTERVAL = 16
MOST_KEYS = 64 << 20  # bytes of all keys together, in one block as in all
MOST_ENTRIES = 400_000  # which take half a gigabyte and four seconds
_MOST_BLOCK = 64 << 20  # bytes that a compressed block expands to; a writer begins a new block after 256 KiB

Items = list[tuple[bytes, bytes]]


def mask(crc: int) -> int:
    """Return a CRC-32C in the masked form that is stored beside its data (LevelDB's ``util/crc32c.h``)."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_varint(data: bytes | mmap.mmap, at: int) -> tuple[int, int]:
    """Return the number at byte `at` of `data`, and the position behind it.

    Raises:
        IndexError: the data ends within the number.
        ValueError: the number has more than 64 bits.
    """
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number has more than 64 bits")


def varint(value: int) -> bytes:
    """Return `value` as a varint: groups of seven bits, the lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Table:
    """An open table: its index is in memory, its blocks are read and checked on access."""

    def __init__(self, data: bytes | mmap.mmap):
        """Read footer and index block.

        Args:
            data: all bytes of the file.

        Raises:
            ValueError: `data` is not a table, or its index block is damaged.
        """
        self.data = data
        if len(data) < _FOOTER or data[-len(MAGIC) :] != MAGIC:
            raise ValueError("it does not end like a checkpoint: it was cut short or is something else")
        footer = data[-_FOOTER:]
        _, offset, size = _handle(footer, skip=1)
        self._index = [(key, *_handle(value)[1:]) for key, value in _entries(self._block(offset, size))]
        self._last: tuple[int, dict[bytes, bytes]] = (-1, {})  # the block that `get` read last: its offset and its entries
        _check_order(self._index, offset)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all keys and values, the keys strictly increasing.

        Raises:
            ValueError: the keys are not in order, are too many or too long, or a block is damaged.
        """
        last, left, size = None, MOST_ENTRIES, MOST_KEYS
        for _, offset, length in self._index:
            for key, value in _entries(self._block(offset, length)):
                if last is not None and key <= last:
                    raise ValueError("its keys are not in order")
                last, left, size = key, left - 1, size - len(key)
                if left < 0 or size < 0:
                    raise ValueError(f"it has more than {MOST_ENTRIES:,} entries, or names of more than {MOST_KEYS:,} bytes")
                yield key, value

    def get(self, key: bytes) -> bytes:
        """Return the value of one key, reading only its block.

        Raises:
            ValueError: the table has no such key.
        """
        at = bisect.bisect_left(self._index, key, key=lambda block: block[0])
        for _, offset, size in self._index[at : at + 1]:
            if self._last[0] != offset:
                self._last = (offset, dict(_entries(self._block(offset, size))))
            if key in self._last[1]:
                return self._last[1][key]
        raise ValueError(f"it has no entry {key!r}")

    def _block(self, offset: int, size: int) -> bytes:
        end = offset + size
        if end + _TRAILER > len(self.data) - _FOOTER:
            raise ValueError(f"the block at byte {offset} goes beyond its end")
        block, trailer = self.data[offset:end], self.data[end : end + _TRAILER]
        if mask(google_crc32c.extend(google_crc32c.value(block), trailer[:1])) != int.from_bytes(trailer[1:], "little"):
            raise ValueError(f"the block at byte {offset} does not have its checksum")
        if trailer[0] > 1:
            raise ValueError(f"the block at byte {offset} is compressed in an unknown way ({trailer[0]})")
        return _uncompress(block) if trailer[0] else block


def _uncompress(data: bytes) -> bytes:
    """Decompress a Snappy block (``format_description.txt`` of Snappy), as some releases of TensorFlow 2 wrote indexes.

    The output is at most 22 times as large as the input: the shortest element that copies 64 bytes has 3.

    Raises:
        ValueError, IndexError: malformed data.
    """
    size, at = read_varint(data, 0)
    if size > _MOST_BLOCK:
        raise ValueError(f"a compressed block expands to {size:,} bytes, more than the {_MOST_BLOCK:,} of any writer")
    out = bytearray()
    while at < len(data):
        kind, number, at = data[at] & 3, data[at] >> 2, at + 1
        if kind == 0:
            extra = max(0, number - 59)
            length, at = 1 + (int.from_bytes(data[at : at + extra], "little") if extra else number), at + extra
            out += data[at : at + length]
            at += length
        else:
            width = (0, 1, 2, 4)[kind]
            length, high = ((number & 7) + 4, number >> 3 << 8) if kind == 1 else (number + 1, 0)
            _repeat(out, high | int.from_bytes(data[at : at + width], "little"), length)
            at += width
        if len(out) > size:
            break
    if len(out) != size or at != len(data):
        raise ValueError("a compressed block does not have its size")
    return bytes(out)


def _repeat(out: bytearray, back: int, length: int) -> None:
    """Append `length` bytes that begin `back` bytes before the end and may overlap the bytes being appended."""
    if not 0 < back <= len(out):
        raise ValueError("a compressed block refers to bytes before its beginning")
    pattern = out[-back:][:length]
    out += (pattern * (length // len(pattern) + 1))[:length]


def _handle(data: bytes, skip: int = 0) -> tuple[int, int, int]:
    """Return the BlockHandle in `data` behind `skip` others: (position behind it, offset, size)."""
    at = 0
    for _ in range(skip + 1):
        offset, at = read_varint(data, at)
        size, at = read_varint(data, at)
    return at, offset, size


def _entries(block: bytes) -> Items:
    """Return the keys and values of one block, the keys with their shared prefixes restored."""
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0:
        raise ValueError("a block has more restart points than bytes")
    items: Items = []
    key, at, keys = b"", 0, 0
    while at < end:
        shared, unshared, length = block[at : at + 3]
        at += 3
        if (shared | unshared | length) > 127:
            shared, at = read_varint(block, at - 3)
            unshared, at = read_varint(block, at)
            length, at = read_varint(block, at)
        value = at + unshared
        if shared > len(key) or value + length > end:
            raise ValueError("an entry goes beyond its block")
        key = key[:shared] + block[at:value]
        at, keys = value + length, keys + len(key)
        if keys > MOST_KEYS or len(items) >= MOST_ENTRIES:
            raise ValueError(f"a block has more than {MOST_ENTRIES:,} entries, or names of more than {MOST_KEYS:,} bytes")
        items.append((key, block[value:at]))
    return items


def _check_order(index: list[tuple[bytes, int, int]], end: int) -> None:
    """Raise ValueError for an index block whose keys or blocks are not in order: blocks overlap, repeat or lie behind `end`."""
    for (key, offset, size), (following, start, _) in zip(index, [*index[1:], (b"", end, 0)], strict=True):
        if offset + size + _TRAILER > start:
            raise ValueError(f"the block at byte {offset} overlaps the one at byte {start}")
        if start != end and following < key:
            raise ValueError("its blocks are not in the order of their keys")


def table(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the bytes of the table that holds `items`.

    Args:
        items: keys and values, the keys strictly increasing.
    """
    out, index, block = bytearray(), _Block(1), _Block(_RESTART_INTERVAL)
    last = handle = b""
    for key, value in items:
        if handle:
            index.add(_separator(last, key), handle)
            handle = b""
        block.add(key, value)
        last = key
        if len(block) >= _BLOCK_SIZE:
            handle, block = _append(out, block), _Block(_RESTART_INTERVAL)
    handle = handle or _append(out, block)
    metaindex = _append(out, _Block(_RESTART_INTERVAL))
    index.add(_successor(last), handle)
    footer = metaindex + _append(out, index)
    return bytes(out) + footer.ljust(_FOOTER - len(MAGIC), b"\0") + MAGIC


class _Block:
    """A block under construction; every `interval`-th key is written whole."""

    def __init__(self, interval: int):
        self._interval, self._count, self._last = interval, 0, b""
        self._entries, self._restarts = bytearray(), [0]

    def __len__(self) -> int:
        return len(self._entries) + 4 * len(self._restarts) + 4

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self._count % self._interval:
            shared = _common_prefix(self._last, key)
        elif self._count:
            self._restarts.append(len(self._entries))
        self._entries += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        self._count += 1
        self._last = key

    def __bytes__(self) -> bytes:
        return bytes(self._entries) + struct.pack(f"<{len(self._restarts) + 1}I", *self._restarts, len(self._restarts))


def _append(out: bytearray, block: _Block) -> bytes:
    """Append a block with its trailer to `out`, and return its BlockHandle."""
    body = bytes(block) + b"\0"
    handle = varint(len(out)) + varint(len(body) - 1)
    out += body + struct.pack("<I", mask(google_crc32c.value(body)))
    return handle


def _common_prefix(one: bytes, other: bytes) -> int:
    """Return the length of the common prefix."""
    shortest = min(len(one), len(other))
    return next((i for i in range(shortest) if one[i] != other[i]), shortest)


def _separator(last: bytes, following: bytes) -> bytes:
    """Return a short key that is not below `last` and is below `following`."""
    at = _common_prefix(last, following)
    if at < min(len(last), len(following)) and last[at] + 1 < following[at]:
        return last[:at] + bytes([last[at] + 1])
    return last


def _successor(last: bytes) -> bytes:
    """Return a short key that is not below `last`."""
    for at, byte in enumerate(last):
        if byte < 255:
            return last[:at] + bytes([byte + 1])
    return last
