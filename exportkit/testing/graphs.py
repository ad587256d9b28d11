"""Small graphs with the traits of real training graphs: slots, queues, tables, partitions, moving averages.

Every variable has a known value, different from the others, for tests to compare with; only those of `softmax` are random. This
module imports TensorFlow; `exportkit.testing.toys` imports this module when it makes a checkpoint. A config can name a graph as
``exportkit.testing.graphs:softmax``.
"""

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


def ramp(*shape, start=0.0, step=0.125):
    """Return a float32 array of equidistant values, which are exact in float32."""
    return (start + step * np.arange(int(np.prod(shape)))).reshape(shape).astype(np.float32)


def variable(name, value, **options):
    """Make a variable with the constant initial value `value`."""
    return v1.get_variable(name, initializer=tf.constant(value), **options)


def softmax(inputs=4, outputs=3):
    """Build a dense softmax layer with an Adam optimizer: x → probs, and a placeholder that only training feeds."""
    x = v1.placeholder(tf.float32, [None, inputs], "x")
    labels = v1.placeholder(tf.int64, [None], "labels")
    kernel = v1.get_variable("dense/kernel", [inputs, outputs], initializer=v1.random_normal_initializer())
    bias = v1.get_variable("dense/bias", [outputs], initializer=v1.random_normal_initializer())
    logits = tf.nn.bias_add(tf.matmul(x, kernel), bias, name="logits")
    probs = tf.nn.softmax(logits, name="probs")
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits), name="loss")
    v1.train.AdamOptimizer().minimize(loss, name="train_op")
    return {"x": x, "probs": probs}


def dense(resource=False):
    """Build a classifier with a dropout switch, trained with Adam: serving does not need its slots, labels and loss."""
    x = v1.placeholder(tf.float32, [None, 4], "x")
    is_training = v1.placeholder(tf.bool, [], "is_training")
    with v1.variable_scope("dense", use_resource=resource):
        kernel = variable("kernel", ramp(4, 3))
        bias = variable("bias", ramp(3, start=5.0))
    logits = tf.add(tf.matmul(x, kernel), bias, name="logits")
    dropped = tf.cond(is_training, lambda: tf.nn.dropout(logits, rate=0.5), lambda: tf.identity(logits))
    probs = tf.nn.softmax(dropped, name="probs")
    labels = v1.placeholder(tf.int64, [None], "labels")
    loss = tf.reduce_mean(v1.losses.sparse_softmax_cross_entropy(labels, dropped), name="loss")
    v1.train.AdamOptimizer(0.25).minimize(loss, name="train")
    return {"features": x, "scores": probs, "switch": is_training}


def resources():
    """Build the graph of `dense` with resource variables."""
    return dense(resource=True)


def partitioned():
    """Build an embedding with 7 rows in three partitions, as a parameter server keeps it."""

    def part(shape, dtype, partition_info):
        start = partition_info.var_offset[0]
        return tf.constant(ramp(7, 2)[start : start + shape[0]], dtype)

    ids = v1.placeholder(tf.int64, [None], "ids")
    with v1.variable_scope("embedding", partitioner=v1.fixed_size_partitioner(3)):
        table = v1.get_variable("table", [7, 2], initializer=part)
    tf.nn.embedding_lookup(table, ids, name="vectors")


def queued():
    """Build a graph with input from a shuffling queue that yields 8 examples at a time."""
    queue = v1.RandomShuffleQueue(64, 0, [tf.int64, tf.float32], [[], [4]], name="queue", seed=1)
    queue.enqueue([tf.constant(1, tf.int64), tf.ones([4])], name="enqueue")
    _, features = queue.dequeue_many(8, name="batch")
    tf.matmul(features, variable("kernel", ramp(4, 3)), name="scores")


def table(vocabulary):
    """Build a graph that maps words to ids by a vocabulary file, and ids to vectors."""
    words = v1.placeholder(tf.string, [None], "words")
    lines = tf.lookup.TextFileInitializer(
        vocabulary, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    ids = tf.lookup.StaticVocabularyTable(lines, 1).lookup(words)
    tf.nn.embedding_lookup(variable("vectors", ramp(4, 2)), ids, name="embedded")


def averaged():
    """Build a line whose slope and offset have moving averages, which serving should use."""
    x = v1.placeholder(tf.float32, [None], "x")
    slope, offset = variable("slope", np.float32(2)), variable("offset", np.float32(1))
    tf.add(x * slope, offset, name="y")
    average = v1.train.ExponentialMovingAverage(0.5)
    average.apply([slope, offset])


def integers():
    """Build a graph with an integer input, output and variable."""
    x = v1.placeholder(tf.int64, [None], "x")
    tf.add(x, variable("step", np.int64(7)), name="counted")
