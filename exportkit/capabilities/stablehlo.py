"""The ops of a StableHLO module, as `XlaCallModule` holds it: MLIR bytecode, of which the names of all ops are read.

Source of the format: https://mlir.llvm.org/docs/BytecodeFormat/ and ``BytecodeReader.cpp`` in MLIR. A module can also be text;
of that nothing is said here, for its parser accepts a name in many spellings.
"""

import re
from collections.abc import Iterator

_MAGIC = b"ML\xefR"
_STRINGS, _DIALECTS, _VERSIONS = 0, 1, 7  # of sections
_FLAGGED_DIALECTS, _COUNTED_OPS, _FLAGGED_OPS = 1, 4, 5  # versions of the format that changed the section of dialects
_NEWEST = 6
_MOST_NAMES = 1 << 20  # bytes of the section that names the ops
_MOST_NAME = 200
_MOST = 1 << 20  # strings

# StableHLO's ops that compute their results and do nothing else, https://openxla.org/stablehlo/spec, and what holds them.
# Not here: custom_call, which runs code of the host; infeed, outfeed, send, recv and the collectives, which exchange data.
_NAMES = (
    "abs add after_all and atan2 batch_norm_grad batch_norm_inference batch_norm_training bitcast_convert broadcast "
    "broadcast_in_dim call case cbrt ceil cholesky clamp compare complex composite concatenate constant convert convolution "
    "cosine count_leading_zeros create_token divide dot dot_general dynamic_broadcast_in_dim dynamic_conv dynamic_gather "
    "dynamic_iota dynamic_pad dynamic_reshape dynamic_slice dynamic_update_slice einsum exponential exponential_minus_one "
    "fft floor func gather get_dimension_size get_tuple_element if imag iota is_finite log log_plus_one logistic map "
    "maximum minimum multiply negate not optimization_barrier or pad partition_id popcnt power real real_dynamic_slice "
    "reduce reduce_precision reduce_window remainder replica_id reshape return reverse rng_bit_generator round_nearest_afz "
    "round_nearest_even rsqrt scatter select select_and_scatter set_dimension_size shift_left shift_right_arithmetic "
    "shift_right_logical sign sine slice sort sqrt subtract tan tanh torch_index_select transpose triangular_solve tuple "
    "unary_einsum uniform_dequantize uniform_quantize xor"
)
_PURE = frozenset({"builtin.module", "func.call", "func.func", "func.return", *_NAMES.split()})
_OTHERS = {"rng": "random", "while": "unbounded"}
_DIALECTS_OF_PURE = ("stablehlo", "vhlo")


def capabilities(module: bytes) -> frozenset[str] | None:
    """Return what a module can do, of ``random`` and ``unbounded``; None where it may do more, or is not read."""
    try:
        ops = set(_ops(module))
    except (ValueError, IndexError):
        return None
    known = {op: _capability(op) for op in ops}
    return None if None in known.values() else frozenset(filter(None, known.values()))


def _capability(op: str) -> str | None:
    """Return ``""`` for an op that only computes, else its capability; None for one of which nothing is known."""
    dialect, _, name = op.partition(".")
    if dialect in _DIALECTS_OF_PURE:
        op = re.sub(r"_v\d+\Z", "", name) if dialect == "vhlo" else name
    return "" if op in _PURE else _OTHERS.get(op)


def _ops(module: bytes) -> Iterator[str]:
    """Yield the name of each op that occurs in a module: ``stablehlo.add``.

    Raises:
        ValueError, IndexError: it is no bytecode of a known version.
    """
    if not module.startswith(_MAGIC):
        raise ValueError
    data = _Bytes(module, len(_MAGIC))
    version = data.number()
    if version > _NEWEST:
        raise ValueError
    data.at = module.index(b"\0", data.at) + 1  # who wrote it
    sections: dict[int, bytes] = {}
    while data.at < len(module):
        kind, content = data.section()
        if kind in sections:
            raise ValueError
        sections[kind] = content
    if not {_STRINGS, _DIALECTS} <= sections.keys() or len(sections[_DIALECTS]) > _MOST_NAMES:
        raise ValueError
    return _named(_Bytes(sections[_DIALECTS]), _strings(_Bytes(sections[_STRINGS])), version)


def _strings(data: "_Bytes") -> list[str]:
    """Return the strings: their lengths come first, in reverse order, each with the zero at its end."""
    lengths = [data.number() for _ in range(data.count())]
    found = []
    for length in reversed(lengths):
        found.append(data.take(length)[:-1].decode())
    return found


def _named(data: "_Bytes", strings: list[str], version: int) -> Iterator[str]:
    dialects = []
    for _ in range(data.count()):
        index, has_version = divmod(data.number(), 2) if version >= _FLAGGED_DIALECTS else (data.number(), 0)
        dialects.append(strings[index])
        if has_version and data.section()[0] != _VERSIONS:
            raise ValueError
    if version >= _COUNTED_OPS:
        data.number()
    while data.at < len(data.data):
        dialect = dialects[data.number()]
        for _ in range(data.count()):
            name = strings[data.number() >> int(version >= _FLAGGED_OPS)]
            if len(dialect) + len(name) > _MOST_NAME:
                raise ValueError
            yield f"{dialect}.{name}"


class _Bytes:
    """Bytes that are read from the front. Raises ValueError or IndexError at their end."""

    def __init__(self, data: bytes, at: int = 0):
        self.data, self.at = data, at

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self.data) - self.at:
            raise ValueError
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self) -> int:
        """Return a varint, whose first byte has as many zeros at its end as bytes follow; eight follow a zero."""
        first = self.data[self.at]
        more = (first & -first).bit_length() - 1 if first else 8
        value = int.from_bytes(self.take(more + 1), "little")
        return value >> more + 1 if first else value >> 8

    def count(self) -> int:
        if (value := self.number()) > _MOST:
            raise ValueError
        return value

    def section(self) -> tuple[int, bytes]:
        """Return the kind and the content of a section, which may be aligned."""
        head = self.take(1)[0]
        size = self.number()
        if head & 0x80:
            alignment = self.number()
            if not 0 < alignment <= _MOST:
                raise ValueError
            self.take(-self.at % alignment)
        return head & 0x7F, self.take(size)
