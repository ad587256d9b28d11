import contextlib
import random

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exportkit.checkpoint.sstable import Table, mask, read_varint, table, varint

HEADER = [(b"", b"\x08\x01\x1a\x02\x08\x01")]


def many(count):
    return HEADER + [(b"layer_%05d/kernel" % i, b"value %d" % i) for i in range(count)]


def with_block(block, kind):
    """A table whose only data block is `block`, stored as `kind` says."""
    body = block + bytes([kind])
    data = body + mask(google_crc32c.value(body)).to_bytes(4, "little")
    index = b"\0\x01" + varint(len(varint(len(block))) + 1) + b"{\0" + varint(len(block)) + bytes(4) + b"\1\0\0\0"
    tail = index + b"\0"
    tail += mask(google_crc32c.value(tail)).to_bytes(4, "little")
    handles = b"\0\0" + varint(len(data)) + varint(len(index))
    return data + tail + handles.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


@given(st.integers(0, 2**64 - 1))
def test_a_number_comes_back(value):
    assert read_varint(b"x" + varint(value) + b"y", 1) == (value, 1 + len(varint(value)))


def test_a_number_may_be_cut_off_or_too_long():
    with pytest.raises(IndexError):
        read_varint(b"\x80", 0)
    with pytest.raises(ValueError, match="a number has more than 64 bits"):
        read_varint(b"\x80" * 20, 0)


def test_checksums_are_masked_as_leveldb_masks_them():
    assert google_crc32c.value(b"123456789") == 0xE3069283
    assert mask(0) == 0xA282EAD8
    assert mask(0xE3069283) == 0xC78AB0E5


@given(st.dictionaries(st.binary(max_size=40), st.binary(max_size=300), min_size=1))
def test_what_is_written_is_read(items):
    items = sorted(items.items())
    read = Table(table(items))
    assert list(read.items()) == items
    assert all(read.get(key) == value for key, value in items)


def test_many_blocks():
    items = many(30_000)
    read = Table(table(items))
    assert list(read.items()) == items
    assert all(read.get(key) == value for key, value in items[::997])
    for absent in (b"a", b"layer_00010/kernel0", b"z"):
        with pytest.raises(ValueError, match="it has no entry"):
            read.get(absent)


@pytest.mark.parametrize("keys", [(b"a", b"c"), (b"ab", b"ad"), (b"ab1", b"az"), (b"a", b"ac"), (b"a\xff", b"b"), (b"a", b"b")])
def test_keys_on_both_sides_of_a_block_are_found(keys):
    """The index has a key between the two, as short as it can be."""
    items = [*HEADER, *((key, bytes(300_000)) for key in keys), (b"z", b"last")]
    read = Table(table(items))
    assert list(read.items()) == items
    assert all(read.get(key) == value for key, value in items)


def test_every_changed_byte_is_noticed_or_does_no_harm():
    items = many(40)
    good, chance = table(items), random.Random(7)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= chance.randrange(1, 256)
        try:
            assert list(Table(bytes(bad)).items()) == items
        except (ValueError, IndexError) as error:
            assert str(error)


def test_every_cut_is_noticed():
    good = table(many(40))
    for size in range(len(good)):
        with pytest.raises((ValueError, IndexError)):
            list(Table(good[:size]).items())


BLOCK = b"\0\0\x08abababab" + bytes(4) + b"\1\0\0\0"
START, END = bytes([19, 4 << 2]) + BLOCK[:5], bytes([7 << 2]) + BLOCK[11:]
COMPRESSED = {
    "a literal": bytes([19, 18 << 2]) + BLOCK,
    "a literal with a byte of length": bytes([19, 60 << 2, 18]) + BLOCK,
    "a copy with a byte of distance": START + bytes([2 << 2 | 1, 2]) + END,
    "a copy with two bytes of distance": START + bytes([5 << 2 | 2, 2, 0]) + END,
    "a copy with four bytes of distance": START + bytes([5 << 2 | 3, 2, 0, 0, 0]) + END,
}


@pytest.mark.parametrize("compressed", COMPRESSED.values(), ids=COMPRESSED)
def test_compressed_blocks_are_read(compressed):
    assert list(Table(with_block(compressed, 1)).items()) == [(b"", b"abababab")]


@pytest.mark.parametrize(
    ("compressed", "text"),
    [
        (b"\x0f\x01\x01", "refers to bytes before its beginning"),
        (b"\x0f\x00a\x01\x00", "refers to bytes before its beginning"),
        (b"\x0f\x00a", "does not have its size"),
        (b"\x01\x3cab", "does not have its size"),
        (b"\xff\xff\xff\xff\x7f\x00a", "expands to 34,359,738,367 bytes, more than the 67,108,864 of any writer"),
    ],
)
def test_malformed_compression_is_refused(compressed, text):
    with pytest.raises(ValueError, match=text):
        list(Table(with_block(compressed, 1)).items())


def test_an_unknown_compression_is_refused():
    with pytest.raises(ValueError, match=r"^the block at byte 0 is compressed in an unknown way \(2\)$"):
        list(Table(with_block(BLOCK, 2)).items())


@given(st.binary(max_size=60), st.sampled_from([0, 1]))
def test_any_block_with_a_sound_checksum_is_read_or_refused(block, kind):
    with contextlib.suppress(ValueError, IndexError):
        assert all(isinstance(value, bytes) for _, value in Table(with_block(block, kind)).items())
