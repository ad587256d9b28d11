"""Write a training checkpoint of any size, with its .meta, in the time that writing its trainable values takes.

``python dense_checkpoint.py PREFIX BYTES`` prints the names of the trainable variables, as JSON. TensorFlow builds the
graph and runs no session: the trainable values are random numbers, written as a stream, and the rest, Adam's slots, are zeros:
holes in the file. Their checksums are right, so everything that reads checkpoints reads this one.
"""

import functools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from exportkit import protos
from exportkit.checkpoint import sstable
from exportkit.plugin import import_tensorflow

import_tensorflow()  # without Keras: a third of the time

import tensorflow as tf  # noqa: E402

v1 = tf.compat.v1
LAYERS = 8
CHUNK = 1 << 22


def build(width: int) -> None:
    """Build dense layers of `width` units, trained by Adam, with the input ``x:0`` and the output ``scores:0``."""
    values = v1.placeholder(tf.float32, [None, width], name="x")
    for i in range(LAYERS):
        with v1.variable_scope(f"layer_{i}"):
            kernel = v1.get_variable("kernel", [width, width], initializer=v1.zeros_initializer())
            bias = v1.get_variable("bias", [width], initializer=v1.zeros_initializer())
            values = tf.nn.relu(tf.nn.bias_add(tf.matmul(values, kernel), bias))
    scores = tf.nn.softmax(values, name="scores")
    v1.train.AdamOptimizer().minimize(tf.reduce_mean(scores), v1.train.get_or_create_global_step())


def write_values(prefix: str, variables: list[tf.Variable], random: set[str]) -> None:
    """Write a checkpoint of the variables as tf.compat.v1.train.Saver would: in the order of their names, in one file."""
    header = protos.tensor_bundle_pb2.BundleHeaderProto(num_shards=1)
    header.version.producer = 1
    items = {b"": header}
    with open(f"{prefix}.data-00000-of-00001", "xb") as file:
        for variable in sorted(variables, key=lambda variable: variable.op.name):
            name = variable.op.name
            items[name.encode()] = _write_value(file, variable, name in random)
        file.truncate(file.tell())
    Path(f"{prefix}.index").write_bytes(
        sstable.table([(key, proto.SerializeToString()) for key, proto in sorted(items.items())])
    )


def _write_value(file: BinaryIO, variable: tf.Variable, random: bool) -> object:
    dtype, shape, offset = variable.dtype.base_dtype, variable.shape.as_list(), file.tell()
    size = math.prod(shape) * dtype.size
    crc = _write_random(file, size) if random else _skip(file, size)
    entry = protos.tensor_bundle_pb2.BundleEntryProto(dtype=dtype.as_datatype_enum, offset=offset, size=size)
    entry.shape.CopyFrom(variable.shape.as_proto())
    entry.crc32c = sstable.mask(crc)
    return entry


def _write_random(file: BinaryIO, size: int) -> int:
    """Write float32 values between -1 and 1, and return their checksum."""
    crc, numbers = 0, np.random.default_rng(file.tell())
    for length in _chunks(size):
        data = (2 * numbers.random(length // 4, np.float32) - 1).tobytes()
        file.write(data)
        crc = google_crc32c.extend(crc, data)
    return crc


def _skip(file: BinaryIO, size: int) -> int:
    """Leave a hole, which reads as zeros, and return its checksum."""
    file.seek(size, 1)
    return _zeros_checksum(size)


@functools.cache
def _zeros_checksum(size: int) -> int:
    crc, zeros = 0, bytes(CHUNK)
    for length in _chunks(size):
        crc = google_crc32c.extend(crc, zeros[:length])
    return crc


def _chunks(size: int) -> Iterator[int]:
    for start in range(0, size, CHUNK):
        yield min(CHUNK, size - start)


def main(prefix: str, total: str) -> None:
    width = max(1, math.isqrt(int(total) // (3 * 4 * LAYERS)))
    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    with tf.Graph().as_default():
        build(width)
        v1.train.Saver()
        v1.train.export_meta_graph(f"{prefix}.meta", as_text=False)
        trainable = [variable.op.name for variable in v1.trainable_variables()]
        write_values(prefix, v1.global_variables(), set(trainable))
    print(json.dumps(trainable))


main(*sys.argv[1:])
