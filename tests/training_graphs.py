"""Training graphs as authors of public repositories write them, each with what they serve of it.

A builder makes the graph in the default graph of TensorFlow 1 and returns nothing; the decorator says which output is wanted
first, which inputs it needs, and which placeholders are baked. No session is run and no value matters: what a suggestion
goes by are ops, names and shapes.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import tensorflow as tf

from exportkit.protos import MetaGraphDef

v1 = tf.compat.v1


@dataclass(frozen=True, eq=False)
class Case:
    """A training graph and what is to be suggested for it.

    Attributes:
        build: makes the graph.
        output: the tensor that is to be ranked first; any of them where several are as good.
        inputs: the tensors that are to be fed.
        constants: tensors that are to be baked → their values.
        lacks: variables that the checkpoint does not hold.
    """

    build: Callable[[], None]
    output: str | Sequence[str]
    inputs: Sequence[str]
    constants: Mapping[str, object] = field(default_factory=dict)
    lacks: Sequence[str] = ()

    @property
    def outputs(self):
        return [self.output] if isinstance(self.output, str) else self.output

    def meta_graph(self, shared):
        """The graph as a Saver of TensorFlow 1 writes it, built once for the tests of all workers; `shared` is the fixture."""

        def make(directory):
            with as_tensorflow_1_wrote_graphs(), tf.Graph().as_default():
                self.build()
                (directory / "model.meta").write_bytes(v1.train.export_meta_graph().SerializeToString())

        return MetaGraphDef.FromString((shared(f"graph_{self}", make) / "model.meta").read_bytes())

    def __str__(self):
        return self.build.__name__


@contextmanager
def as_tensorflow_1_wrote_graphs():
    """Build loops and conditions of Switch and Merge, as TensorFlow 1 did; afterwards it is as it was."""
    was_on = v1.control_flow_v2_enabled()
    v1.disable_control_flow_v2()
    try:
        yield
    finally:
        if was_on:
            v1.enable_control_flow_v2()


CASES: list[Case] = []


def case(output, inputs, constants=None, lacks=()):
    def add(build):
        CASES.append(Case(build, output, inputs.split(), constants or {}, lacks))
        return build

    return add


# How layers are written


def ph(name, shape, dtype=tf.float32):
    return v1.placeholder(dtype, shape, name)


def weight(name, shape, **options):
    return v1.get_variable(name, shape, tf.float32, v1.zeros_initializer(), use_resource=False, **options)


def dense(x, width, scope, act=None):
    """As tf.layers.dense names its nodes: ``scope/MatMul``, ``scope/BiasAdd``, ``scope/Relu``."""
    with v1.variable_scope(scope, reuse=v1.AUTO_REUSE):
        kernel, bias = weight("kernel", [int(x.shape[-1]), width]), weight("bias", [width])
        y = tf.nn.bias_add(tf.matmul(x, kernel, name="MatMul"), bias, name="BiasAdd")
        return act(y) if act else y


def conv(x, channels, scope, act=None, size=3, stride=1):
    with v1.variable_scope(scope, reuse=v1.AUTO_REUSE):
        kernel, bias = weight("kernel", [size, size, int(x.shape[-1]), channels]), weight("bias", [channels])
        y = tf.nn.bias_add(tf.nn.conv2d(x, kernel, stride, "SAME", name="Conv2D"), bias, name="BiasAdd")
        return act(y) if act else y


def deconv(x, size, channels, scope, act=None):
    with v1.variable_scope(scope, reuse=v1.AUTO_REUSE):
        kernel, bias = weight("w", [5, 5, channels, int(x.shape[-1])]), weight("biases", [channels])
        shape = tf.stack([tf.shape(x)[0], size, size, channels])
        y = tf.nn.bias_add(tf.nn.conv2d_transpose(x, kernel, shape, 2), bias)
        y.set_shape([None, size, size, channels])
        return act(y) if act else y


def plain(x, width):
    """As tutorials write it: a matrix and a vector, and names that TensorFlow gives."""
    w = v1.Variable(tf.zeros([int(x.shape[-1]), width]), use_resource=False)
    return tf.matmul(x, w) + v1.Variable(tf.zeros([width]), use_resource=False)


def flat(x):
    size = 1
    for n in x.shape[1:]:
        size *= n
    return tf.reshape(x, [-1, size])


def dropout(x, keep, name="dropout"):
    """As TensorFlow 1.4 wrote tf.nn.dropout(x, keep_prob)."""
    with v1.name_scope(name):
        low, high = tf.constant(0.0), tf.constant(1.0)
        with v1.name_scope("random_uniform"):
            uniform = v1.random_uniform(tf.shape(x)) * (high - low) + low
        kept = tf.divide(x, keep) * tf.floor(keep + uniform)
        kept.set_shape(x.shape)
        return kept


def lookup(ids, rows, width, name="embedding"):
    return tf.nn.embedding_lookup(weight(name, [rows, width]), ids)


def minimize(loss, name=None):
    v1.train.AdamOptimizer(0.001).minimize(tf.reduce_mean(loss), name=name)


def sparse_loss(labels, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def softmax_loss(labels, logits):
    return v1.nn.softmax_cross_entropy_with_logits(labels=labels, logits=logits)


def accuracy(scores, labels):
    hits = tf.equal(tf.argmax(scores, 1), tf.argmax(labels, 1))
    tf.reduce_mean(tf.cast(hits, tf.float32), name="accuracy")


def recurrent(x, width, scope="rnn", lengths=None):
    """A dynamic recurrent layer in a while loop: [batch, time, depth] → all outputs [batch, time, width] and the last state."""
    with v1.variable_scope(scope):
        kernel = weight("cell/kernel", [int(x.shape[-1]) + width, width])
        turned = tf.transpose(x, [1, 0, 2])
        steps = tf.shape(turned)[0]
        inputs = tf.TensorArray(tf.float32, steps).unstack(turned)
        start = tf.zeros(tf.stack([tf.shape(turned)[1], width]))

        def body(step, state, outputs):
            new = tf.tanh(tf.matmul(tf.concat([inputs.read(step), state], 1), kernel))
            if lengths is not None:
                new = v1.where(tf.less(step, lengths), new, state)
            return step + 1, new, outputs.write(step, new)

        shapes = (tf.TensorShape([]), tf.TensorShape([None, width]), tf.TensorShape(None))
        loop = (tf.constant(0), start, tf.TensorArray(tf.float32, steps))
        _, state, outputs = v1.while_loop(lambda step, *_: step < steps, body, loop, shapes)
        stacked = tf.transpose(outputs.stack(), [1, 0, 2])
        stacked.set_shape([x.shape[0], x.shape[1], width])
        return stacked, state


def queue(*tensors, batch=32):
    """What an input pipeline of TensorFlow 1 ends in; names ``batch:0``, ``batch:1``."""
    dtypes, shapes = [dtype for dtype, _ in tensors], [shape for _, shape in tensors]
    fifo = v1.FIFOQueue(100, dtypes, shapes, name="batch/fifo_queue")
    return fifo.dequeue_many(batch, name="batch") if len(tensors) > 1 else [fifo.dequeue_many(batch, name="batch")]


@contextmanager
def scopes(*names):
    with v1.name_scope("/".join(names)):
        yield


# Classifiers


@case("Softmax:0", "Placeholder:0")
def mnist_softmax_of_the_tutorial():
    x, y_ = v1.placeholder(tf.float32, [None, 784]), v1.placeholder(tf.float32, [None, 10])
    y = tf.nn.softmax(plain(x, 10))
    loss = -tf.reduce_sum(y_ * tf.math.log(y))
    accuracy(y, y_)
    v1.train.GradientDescentOptimizer(0.01).minimize(loss)


@case("fc2/add:0", "x:0", {"dropout/Placeholder:0": 1.0})
def mnist_deep_with_logits_only():
    x, y_ = ph("x", [None, 784]), v1.placeholder(tf.float32, [None, 10])
    h = conv(tf.reshape(x, [-1, 28, 28, 1]), 8, "conv1", tf.nn.relu)
    with v1.name_scope("dropout"):
        keep = v1.placeholder(tf.float32)
    h = dropout(flat(h), keep)
    with v1.name_scope("fc2"):
        y = plain(h, 10)
    minimize(softmax_loss(y_, y))
    accuracy(y, y_)


@case("predictions:0", "input:0", {"keep:0": 1.0})
def named_probabilities_behind_dropout():
    x, y, keep = ph("input", [None, 20]), ph("labels", [None, 3]), ph("keep", None)
    logits = dense(dropout(dense(x, 8, "hidden", tf.nn.relu), keep), 3, "logits")
    tf.nn.softmax(logits, name="predictions")
    minimize(softmax_loss(y, logits))


@case("output/scores:0", "input_x:0", {"dropout_keep_prob:0": 1.0})
def cnn_for_sentences():
    x, y = ph("input_x", [None, 56], tf.int32), ph("input_y", [None, 2])
    keep = ph("dropout_keep_prob", None)
    with v1.name_scope("embedding"):
        e = tf.expand_dims(lookup(x, 100, 16, "W"), -1)
    with v1.name_scope("conv-maxpool-3"):
        c = tf.nn.relu(tf.nn.conv2d(e, weight("W3", [3, 16, 1, 8]), 1, "VALID", name="conv"), name="relu")
        c = tf.nn.max_pool2d(c, [1, 54, 1, 1], 1, "VALID", name="pool")
    h = dropout(tf.reshape(c, [-1, 8]), keep)
    with v1.name_scope("output"):
        scores = v1.nn.xw_plus_b(h, weight("W_out", [8, 2]), weight("b", [2]), name="scores")
        predictions = tf.argmax(scores, 1, name="predictions")
    with v1.name_scope("loss"):
        loss = tf.reduce_mean(softmax_loss(y, scores)) + 0.1 * tf.nn.l2_loss(weight("W_l2", [2]))
    with v1.name_scope("accuracy"):
        tf.reduce_mean(tf.cast(tf.equal(predictions, tf.argmax(y, 1)), "float"), name="accuracy")
    minimize(loss)


@case("InceptionV1/Logits/Predictions/Reshape_1:0", "batch:0", {})
def slim_inception_behind_a_queue():
    images, labels = queue((tf.float32, [28, 28, 3]), (tf.int64, []))
    with scopes("InceptionV1"):
        net = conv(images, 8, "Conv2d_1a", tf.nn.relu)
        with v1.name_scope("Logits"):
            logits = tf.squeeze(
                tf.reduce_mean(conv(net, 10, "Conv2d_0c_1x1"), [1, 2], keepdims=True), [1, 2], name="SpatialSqueeze"
            )
            with v1.name_scope("Predictions"):
                tf.reshape(tf.nn.softmax(tf.reshape(logits, [-1, 10])), tf.shape(logits))
        aux = dense(tf.reduce_mean(net, [1, 2]), 10, "AuxLogits")
    minimize(v1.losses.sparse_softmax_cross_entropy(labels, logits) + v1.losses.sparse_softmax_cross_entropy(labels, aux))


@case("dense_2/Softmax:0", "dense_1_input:0", {"keras_learning_phase:0": False})
def keras_sequential_in_a_session():
    x = ph("dense_1_input", [None, 8])
    learning = v1.placeholder_with_default(False, [], "keras_learning_phase")
    h = dense(x, 8, "dense_1", tf.nn.relu)
    with v1.name_scope("dropout_1"):
        h = v1.cond(learning, lambda: v1.nn.dropout(h, rate=0.5), lambda: tf.identity(h))
    h.set_shape([None, 8])
    y = dense(h, 3, "dense_2", tf.nn.softmax)
    target, weights = ph("dense_2_target", [None, None]), ph("dense_2_sample_weights", [None])
    with scopes("loss", "dense_2_loss"):
        scaled = y / tf.reduce_sum(y, -1, keepdims=True)
        loss = -tf.reduce_sum(target * tf.math.log(tf.clip_by_value(scaled, 1e-7, 1.0)), -1) * weights
    with scopes("metrics", "acc"):
        tf.reduce_mean(tf.cast(tf.equal(tf.argmax(target, -1), tf.argmax(y, -1)), tf.float32))
    minimize(loss)


@case("dense_1/Sigmoid:0", "input_1:0", {"keras_learning_phase:0": False})
def keras_binary_with_a_fed_learning_phase():
    x, learning = ph("input_1", [None, 8]), ph("keras_learning_phase", [], tf.bool)
    h = dense(x, 4, "dense", tf.nn.relu)
    h = v1.cond(learning, lambda: v1.nn.dropout(h, rate=0.5), lambda: tf.identity(h))
    h.set_shape([None, 4])
    y = dense(h, 1, "dense_1", tf.sigmoid)
    target = ph("dense_1_target", [None, None])
    with scopes("loss", "dense_1_loss"):
        clipped = tf.clip_by_value(y, 1e-7, 1 - 1e-7)
        loss = tf.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=tf.math.log(clipped / (1 - clipped)))
    minimize(loss)


@case("FullyConnected_1/Softmax:0", "InputData/X:0")
def tflearn_with_its_training_variable():
    with v1.name_scope("is_training"):
        training = v1.get_variable("is_training", [], tf.bool, v1.zeros_initializer(), trainable=False, use_resource=False)
    with v1.name_scope("InputData"):
        x = ph("X", [None, 6])
    h = dense(x, 8, "FullyConnected", tf.nn.relu)
    h = v1.cond(training, lambda: v1.nn.dropout(h, rate=0.5), lambda: h)
    h.set_shape([None, 8])
    y = dense(h, 2, "FullyConnected_1", tf.nn.softmax)
    with v1.name_scope("TargetsData"):
        target = ph("Y", [None, 2])
    with v1.name_scope("Accuracy"):
        accuracy(y, target)
    with v1.name_scope("Crossentropy"):
        y = tf.clip_by_value(y / tf.reduce_sum(y, 1, keepdims=True), 1e-10, 1.0)
        minimize(-tf.reduce_sum(target * tf.math.log(y), 1))


@case("dnn/head/predictions/probabilities:0", "IteratorGetNext:0 IteratorGetNext:1")
def estimator_with_an_iterator():
    iterator = v1.data.Iterator.from_structure((tf.float32, tf.float32, tf.int64), ([40, 1], [40, 1], [40]))
    a, b, labels = iterator.get_next()
    logits = dense(dense(tf.concat([a, b], 1), 8, "dnn/hiddenlayer_0", tf.nn.relu), 3, "dnn/logits")
    with scopes("dnn", "head", "predictions"):
        tf.nn.softmax(logits, name="probabilities")
        classes = tf.argmax(logits, -1, name="class_ids")
        tf.as_string(tf.expand_dims(classes, -1), name="str_classes")
    with scopes("dnn", "zero_fraction"):
        v1.summary.scalar("fraction", tf.reduce_mean(tf.cast(tf.equal(logits, 0.0), tf.float32)))
    with scopes("dnn", "head"):
        minimize(v1.losses.sparse_softmax_cross_entropy(labels, logits))


@case("linear/head/predictions/probabilities:0", "batch:0 batch:1")
def estimator_for_two_classes():
    a, b, labels = queue((tf.float32, [1]), (tf.float32, [1]), (tf.float32, [1]))
    logits = tf.add(
        tf.matmul(a, weight("wa", [1, 1])) + tf.matmul(b, weight("wb", [1, 1])), weight("bias", [1]), "linear/logits"
    )
    with scopes("linear", "head", "predictions"):
        tf.sigmoid(logits, name="logistic")
        two = tf.concat([tf.zeros_like(logits), logits], -1, name="two_class_logits")
        tf.nn.softmax(two, name="probabilities")
    with scopes("linear", "head"):
        minimize(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits))


@case("loss/Softmax:0", "IteratorGetNext:0 IteratorGetNext:1")
def bert_classifier_whose_head_is_called_loss():
    iterator = v1.data.Iterator.from_structure((tf.int32, tf.int32, tf.int32), ([32, 16], [32, 16], [32]))
    ids, mask, labels = iterator.get_next()
    with v1.variable_scope("bert"):
        e = lookup(ids, 50, 8, "word_embeddings") * tf.expand_dims(tf.cast(mask, tf.float32), -1)
        pooled = dense(e[:, 0], 8, "pooler/dense", tf.tanh)
    with v1.variable_scope("loss"):
        pooled = v1.nn.dropout(pooled, rate=0.0)
        logits = tf.nn.bias_add(
            tf.matmul(pooled, weight("output_weights", [2, 8]), transpose_b=True), weight("output_bias", [2])
        )
        tf.nn.softmax(logits, axis=-1)
        log_probs = tf.nn.log_softmax(logits, axis=-1)
        loss = -tf.reduce_sum(tf.one_hot(labels, 2) * log_probs, axis=-1)
    minimize(loss)


@case("tower0/prob:0", "tower0/image:0")
def tensorpack_towers():
    with v1.name_scope("tower0"):
        image, label = ph("image", [None, 16]), ph("label", [None], tf.int32)
        logits = dense(image, 4, "fc")
        tf.nn.softmax(logits, name="prob")
        cost = tf.reduce_mean(sparse_loss(label, logits), name="cross_entropy_loss")
        tf.cast(
            tf.math.logical_not(tf.nn.in_top_k(predictions=logits, targets=label, k=1)), tf.float32, name="incorrect_vector"
        )
    minimize(cost)


@case("logits:0", "x:0", {"is_training:0": False})
def batch_norm_behind_a_training_switch():
    x, y, training = ph("x", [None, 8]), ph("y", [None], tf.int64), ph("is_training", [], tf.bool)
    h = dense(x, 4, "h")
    mean = weight("bn/moving_mean", [4], trainable=False)

    def moved():
        return tf.identity(v1.assign_sub(mean, (mean - tf.reduce_mean(h, 0)) * 0.1))

    h = tf.nn.relu(h - v1.cond(training, moved, lambda: tf.identity(mean)))
    h.set_shape([None, 4])
    logits = tf.identity(dense(h, 3, "fc"), name="logits")
    minimize(sparse_loss(y, logits))


@case("Sigmoid:0", "Placeholder:0")
def multi_label_sigmoid():
    x, y = v1.placeholder(tf.float32, [None, 30]), v1.placeholder(tf.float32, [None, 5])
    logits = plain(tf.nn.relu(plain(x, 16)), 5)
    probs = tf.sigmoid(logits)
    minimize(tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=logits))
    tf.reduce_mean(tf.cast(tf.equal(tf.round(probs), y), tf.float32))


@case("prob:0", "images:0")
def vgg_with_frozen_features():
    x, y = ph("images", [None, 16, 16, 3]), ph("true_out", [None, 4])
    kernel = tf.constant(0.5, shape=[3, 3, 3, 4])
    h = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"), name="conv1_1")
    fc8 = dense(flat(h), 4, "fc8")
    prob = tf.nn.softmax(fc8, name="prob")
    minimize(tf.reduce_sum((prob - y) ** 2))


@case("final_result:0", "input/BottleneckInputPlaceholder:0")
def retrained_inception():
    with v1.name_scope("input"):
        x = v1.placeholder_with_default(tf.zeros([1, 16]), [None, 16], "BottleneckInputPlaceholder")
        truth = ph("GroundTruthInput", [None], tf.int64)
    with scopes("final_retrain_ops"), v1.name_scope("Wx_plus_b"):
        logits = plain(x, 3)
        v1.summary.histogram("pre_activations", logits)
    result = tf.nn.softmax(logits, name="final_result")
    v1.summary.histogram("activations", result)
    with v1.name_scope("cross_entropy"):
        minimize(v1.losses.sparse_softmax_cross_entropy(truth, logits))


@case("Add_1:0", "X:0")
def hinge_loss_svm():
    x, y = ph("X", [None, 4]), ph("Y", [None, 1])
    a, b = weight("A", [4, 1]), weight("b", [1, 1])
    out = tf.add(tf.multiply(tf.matmul(x, a), 1.0), 0.0)
    out = tf.add(out, b)
    minimize(tf.maximum(0.0, 1.0 - out * y))


# Regressions


@case("pred:0", "X:0")
def linear_regression_of_the_tutorial():
    x, y = ph("X", None), ph("Y", None)
    w, b = v1.Variable(0.5, name="weight", use_resource=False), v1.Variable(0.1, name="bias", use_resource=False)
    pred = tf.add(tf.multiply(x, w), b, name="pred")
    v1.train.GradientDescentOptimizer(0.01).minimize(tf.reduce_sum(tf.pow(pred - y, 2)) / 40.0)


@case("Squeeze:0", "Placeholder:0")
def squeezed_regression():
    x, y = v1.placeholder(tf.float32, [None, 8]), v1.placeholder(tf.float32, [None])
    minimize(tf.square(tf.squeeze(plain(tf.tanh(plain(x, 6)), 1)) - y))


@case("output/BiasAdd:0", "inputs:0")
def regression_with_a_metric():
    x, y = ph("inputs", [None, 5]), ph("targets", [None, 1])
    out = dense(dense(x, 8, "layer1", tf.nn.relu), 1, "output")
    loss = v1.losses.mean_squared_error(y, out)
    with v1.name_scope("metrics"):
        tf.sqrt(tf.reduce_mean(tf.abs(out - y)), name="mae")
    minimize(loss)


@case(("Reshape_1:0", "fully_connected_1/BiasAdd:0"), "Placeholder:0")
def stock_prices_by_a_recurrent_net():
    x, y = v1.placeholder(tf.float32, [None, 20, 1]), v1.placeholder(tf.float32, [None, 20, 1])
    outputs, _ = recurrent(x, 10)
    stacked = dense(tf.reshape(outputs, [-1, 10]), 1, "fully_connected_1")
    minimize(tf.square(tf.reshape(stacked, [-1, 20, 1]) - y))


# Sequences


@case("Softmax:0", "input_data:0")
def char_rnn():
    x, y = ph("input_data", [50, 25], tf.int32), ph("targets", [50, 25], tf.int32)
    with v1.variable_scope("rnnlm"):
        inputs = lookup(x, 65, 16)
        kernel, w, b = weight("cell/kernel", [32, 16]), weight("softmax_w", [16, 65]), weight("softmax_b", [65])
    state, outputs = tf.zeros([50, 16]), []
    for step in range(4):
        state = tf.tanh(tf.matmul(tf.concat([inputs[:, step], state], 1), kernel))
        outputs.append(state)
    output = tf.reshape(tf.concat(outputs, 1), [-1, 16])
    logits = tf.matmul(output, w) + b
    tf.nn.softmax(logits)
    minimize(sparse_loss(tf.reshape(y[:, :4], [-1]), logits))


@case("Softmax:0", "Placeholder:0", {"Placeholder_2:0": 1.0})
def text_classifier_by_the_last_state():
    x, y = v1.placeholder(tf.int32, [None, None]), v1.placeholder(tf.int32, [None])
    keep = v1.placeholder(tf.float32)
    _, state = recurrent(lookup(x, 100, 8), 16)
    logits = plain(dropout(tf.reshape(state, [-1, 16]), keep), 4)
    tf.nn.softmax(logits)
    minimize(sparse_loss(y, logits))


@case("logits:0", "word_ids:0 sequence_lengths:0", {"dropout:0": 1.0})
def bilstm_crf_decoded_in_python():
    words, lengths = ph("word_ids", [None, None], tf.int32), ph("sequence_lengths", [None], tf.int32)
    labels, keep = ph("labels", [None, None], tf.int32), ph("dropout", [], tf.float32)
    e = dropout(lookup(words, 100, 8), keep)
    outputs, _ = recurrent(e, 8, "bi-lstm", lengths)
    with v1.variable_scope("proj"):
        logits = plain(tf.reshape(outputs, [-1, 8]), 5)
    logits = tf.reshape(logits, [-1, tf.shape(words)[1], 5], name="logits")
    transitions = weight("transitions", [5, 5])
    unary = tf.reduce_sum(logits * tf.one_hot(labels, 5), [1, 2])
    binary = tf.reduce_sum(tf.gather(tf.reshape(transitions, [-1]), labels[:, :-1] * 5 + labels[:, 1:]), 1)
    norm = tf.reduce_logsumexp(tf.expand_dims(logits[:, 0], 2) + tf.expand_dims(transitions, 0), [1, 2])
    minimize(norm - unary - binary)


@case("viterbi/cond/Merge:0", "word_ids:0 lengths:0")
def crf_decoded_in_a_condition():
    words, lengths = ph("word_ids", [None, None], tf.int32), ph("lengths", [None], tf.int32)
    labels = ph("labels", [None, None], tf.int32)
    outputs, _ = recurrent(lookup(words, 100, 8), 8, "rnn", lengths)
    logits = tf.reshape(plain(tf.reshape(outputs, [-1, 8]), 5), [-1, tf.shape(words)[1], 5])
    transitions = weight("transitions", [5, 5])
    with v1.name_scope("viterbi"):
        several = tf.greater(tf.shape(logits)[1], 1)
        v1.cond(
            several,
            lambda: tf.argmax(logits + tf.reduce_max(transitions, 0), -1, output_type=tf.int32),
            lambda: tf.argmax(logits, -1, output_type=tf.int32),
        )
    with v1.name_scope("loss"):
        minimize(tf.reduce_logsumexp(logits, [1, 2]) - tf.reduce_sum(logits * tf.one_hot(labels, 5), [1, 2]))


@case("CTCGreedyDecoder:1", "inputs:0 seq_len:0")
def speech_by_ctc():
    x, lengths = ph("inputs", [None, None, 13]), ph("seq_len", [None], tf.int32)
    targets = v1.sparse_placeholder(tf.int32, name="targets")
    outputs, _ = recurrent(x, 16, "rnn", lengths)
    logits = tf.reshape(plain(tf.reshape(outputs, [-1, 16]), 28), [tf.shape(x)[0], -1, 28])
    logits = tf.transpose(logits, (1, 0, 2))
    loss = v1.nn.ctc_loss(targets, logits, lengths)
    decoded, _ = tf.nn.ctc_greedy_decoder(logits, lengths)
    v1.reduce_mean(tf.edit_distance(tf.cast(decoded[0], tf.int32), targets))
    minimize(loss)


@case("predictions:0", "input:0 source_sequence_length:0")
def seq2seq_with_a_loop_that_decodes():
    source, lengths = ph("input", [None, None], tf.int32), ph("source_sequence_length", [None], tf.int32)
    targets = ph("targets", [None, None], tf.int32)
    _, state = recurrent(lookup(source, 40, 8, "enc_embedding"), 8, "encoder", lengths)
    table, w = weight("decoder/embedding", [40, 8]), weight("decoder/dense/kernel", [8, 40])
    cell = weight("decoder/cell/kernel", [16, 8])
    state = tf.reshape(state, [-1, 8])

    def body(step, ids, state, outputs):
        new = tf.tanh(tf.matmul(tf.concat([tf.nn.embedding_lookup(table, ids), state], 1), cell))
        ids = tf.argmax(tf.matmul(new, w), 1, output_type=tf.int32)
        return step + 1, ids, new, outputs.write(step, ids)

    start = (tf.constant(0), tf.zeros_like(state[:, 0], tf.int32), state, tf.TensorArray(tf.int32, 5))
    with v1.name_scope("decode"):
        loop = v1.while_loop(lambda step, *_: step < 5, body, start)
    tf.transpose(loop[3].stack(), name="predictions")
    taught, _ = recurrent(tf.nn.embedding_lookup(table, targets), 8, "training_decoder")
    logits = tf.reshape(tf.matmul(tf.reshape(taught, [-1, 8]), w), [tf.shape(targets)[0], -1, 40], name="training_logits")
    with v1.name_scope("optimization"):
        minimize(sparse_loss(targets, logits))


@case(("embedding_lookup:0", "embedding_lookup/Identity:0"), "train_inputs:0")
def word2vec_by_sampled_losses():
    x, labels = ph("train_inputs", [128], tf.int32), ph("train_labels", [128, 1], tf.int32)
    embed = tf.nn.embedding_lookup(weight("embeddings", [500, 16]), x, name="embedding_lookup")
    loss = tf.nn.nce_loss(weight("nce_w", [500, 16]), weight("nce_b", [500]), labels, embed, 8, 500)
    minimize(loss)


@case("Train/Model/Softmax:0", "Train/Model/input:0")
def language_model_in_three_copies():
    for copy in ("Train", "Valid"):
        with scopes(copy, "Model"):
            x, y = ph("input", [None, 5], tf.int32), ph("targets", [None, 5], tf.int32)
            with v1.variable_scope("Model", reuse=v1.AUTO_REUSE):
                e = lookup(x, 50, 8)
                logits = tf.matmul(tf.reshape(e, [-1, 8]), weight("softmax_w", [8, 50]))
            tf.nn.softmax(logits)
            loss = tf.reduce_mean(sparse_loss(tf.reshape(y, [-1]), logits))
        if copy == "Train":
            minimize(loss)


@case("logits/BiasAdd:0", "batch:0 batch:1")
def padded_sequences_out_of_a_queue():
    ids, lengths, labels = queue((tf.int64, [30]), (tf.int32, []), (tf.int64, []))
    outputs, _ = recurrent(lookup(ids, 100, 8), 8, "rnn", lengths)
    logits = dense(tf.reduce_mean(outputs, 1), 3, "logits")
    minimize(v1.losses.sparse_softmax_cross_entropy(labels, logits))


@case("wavenet/postprocessing/add:0", "batch:0")
def wavenet_that_predicts_its_own_input():
    (audio,) = queue((tf.int32, [64]), batch=1)
    with scopes("wavenet"):
        hot = tf.one_hot(audio, 16)
        with v1.name_scope("dilated_stack"):
            h = tf.nn.relu(tf.nn.conv1d(hot, weight("filter", [2, 16, 8]), 1, "SAME"))
        with v1.name_scope("postprocessing"):
            raw = tf.nn.conv1d(h, weight("post", [1, 8, 16]), 1, "SAME") + weight("post_b", [16])
        with v1.name_scope("loss"):
            target = tf.reshape(hot[:, 1:], [-1, 16])
            loss = softmax_loss(target, tf.reshape(raw[:, :-1], [-1, 16]))
            v1.summary.scalar("loss", tf.reduce_mean(loss))
    minimize(loss)


@case("attention/out:0", "x:0")
def attention_inside_an_answer():
    x, y = ph("x", [None, 6, 8]), ph("y", [None, 8])
    with v1.name_scope("attention"):
        scores = tf.reshape(tf.matmul(tf.reshape(x, [-1, 8]), weight("v", [8, 1])), [-1, 6])
        alphas = tf.nn.softmax(scores, name="alphas")
        out = tf.multiply(tf.reduce_sum(x * tf.expand_dims(alphas, -1), 1), 1.0, name="out")
    minimize(tf.square(out - y))


# Generators


@case(("generator/Tanh:0", "sampler/Tanh:0"), "z:0")
def dcgan():
    real, z = ph("real_images", [64, 8, 8, 3]), ph("z", [None, 16])

    def generator():
        h = tf.nn.relu(tf.reshape(dense(z, 4 * 4 * 8, "g_h0_lin"), [-1, 4, 4, 8]))
        return tf.nn.tanh(deconv(h, 8, 3, "g_h1"), name="Tanh")

    def discriminator(image):
        return dense(flat(conv(image, 8, "d_h0_conv", tf.nn.leaky_relu)), 1, "d_h1_lin")

    with v1.variable_scope("generator"), v1.name_scope("generator/"):
        fake = generator()
    with v1.variable_scope("discriminator"):
        true_logits = discriminator(real)
        tf.sigmoid(true_logits)
    with v1.variable_scope("discriminator", reuse=True):
        fake_logits = discriminator(fake)
        tf.sigmoid(fake_logits)
    with v1.variable_scope("generator", reuse=True), v1.name_scope("sampler/"):
        generator()
    sig = tf.nn.sigmoid_cross_entropy_with_logits
    minimize(
        sig(labels=tf.ones_like(true_logits), logits=true_logits) + sig(labels=tf.zeros_like(fake_logits), logits=fake_logits)
    )


@case("G_prob:0", "Z:0")
def vanilla_gan():
    x, z = ph("X", [None, 20]), ph("Z", [None, 5])
    fake = tf.nn.sigmoid(dense(dense(z, 8, "g1", tf.nn.relu), 20, "g2"), name="G_prob")
    real_logit, fake_logit = (dense(dense(image, 8, "d1", tf.nn.relu), 1, "d2") for image in (x, fake))
    tf.nn.sigmoid(real_logit)
    minimize(-tf.math.log(tf.nn.sigmoid(real_logit)) - tf.math.log(1.0 - tf.nn.sigmoid(fake_logit)))


@case("generator/output:0", "z:0 y:0")
def conditional_wgan():
    x, z, y = ph("x", [None, 20]), ph("z", [None, 5]), ph("y", [None, 10])
    with v1.name_scope("generator"):
        fake = tf.tanh(dense(tf.concat([z, y], 1), 20, "g"), name="output")
    scores = [dense(dense(tf.concat([image, y], 1), 8, "critic/h", tf.nn.relu), 1, "critic/out") for image in (x, fake)]
    minimize(tf.reduce_mean(scores[1]) - tf.reduce_mean(scores[0]))


@case("decoder/Sigmoid:0", "input:0")
def autoencoder():
    x = ph("input", [None, 784])
    with v1.name_scope("encoder"):
        code = tf.nn.sigmoid(plain(x, 16))
    with v1.name_scope("decoder"):
        y = tf.nn.sigmoid(plain(code, 784))
    minimize(tf.pow(x - y, 2))


@case(("decoder/output:0", "decoder/Sigmoid:0"), "x:0")
def variational_autoencoder():
    x = ph("x", [None, 20])
    h = dense(x, 8, "encoder", tf.nn.relu)
    mean, spread = dense(h, 2, "z_mean"), dense(h, 2, "z_log_sigma")
    z = mean + tf.exp(spread) * tf.random.normal(tf.shape(mean))
    logits = dense(dense(z, 8, "decoder/hidden", tf.nn.relu), 20, "decoder/logits")
    with v1.name_scope("decoder"):
        y = tf.sigmoid(logits, name="output")
    rebuilt = -tf.reduce_sum(x * tf.math.log(1e-8 + y) + (1 - x) * tf.math.log(1e-8 + 1 - y), 1)
    kl = -0.5 * tf.reduce_sum(1 + spread - tf.square(mean) - tf.exp(spread), 1)
    minimize(rebuilt + kl)


@case("transformer/output:0", "img_placeholder:0")
def style_transfer_before_a_frozen_net():
    x = ph("img_placeholder", [None, 16, 16, 3])
    style = tf.constant(0.5, shape=[1, 16, 16, 4])
    with v1.name_scope("transformer"):
        out = tf.add(tf.nn.tanh(conv(x, 3, "conv1")) * 150, 255.0 / 2, name="output")
    frozen = tf.constant(0.1, shape=[3, 3, 3, 4])
    with v1.name_scope("vgg"):
        wanted, made = (tf.nn.relu(tf.nn.conv2d(image, frozen, 1, "SAME")) for image in (x, out))
    minimize(tf.nn.l2_loss(wanted - made) + tf.nn.l2_loss(made - style))


@case("generator/Tanh:0", "low:0")
def super_resolution_against_a_judge():
    low, high = ph("low", [None, 8, 8, 3]), ph("high", [None, 8, 8, 3])
    with v1.name_scope("generator"):
        fake = tf.tanh(conv(conv(low, 8, "g1", tf.nn.relu), 3, "g2"), name="Tanh")
    judged = [dense(flat(conv(image, 8, "d1", tf.nn.relu)), 1, "d2") for image in (high, fake)]
    adversarial = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.ones_like(judged[1]), logits=judged[1])
    other = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.ones_like(judged[0]), logits=judged[0])
    minimize(tf.reduce_mean(tf.square(fake - high)) + tf.reduce_mean(adversarial) + tf.reduce_mean(other))


@case("add_2:0", "images:0")
def srcnn():
    x, y = ph("images", [None, 33, 33, 1]), ph("labels", [None, 33, 33, 1])
    h = tf.nn.relu(tf.nn.conv2d(x, weight("w1", [9, 9, 1, 8]), 1, "SAME") + weight("b1", [8]))
    h = tf.nn.relu(tf.nn.conv2d(h, weight("w2", [1, 1, 8, 4]), 1, "SAME") + weight("b2", [4]))
    y_ = tf.nn.conv2d(h, weight("w3", [5, 5, 4, 1]), 1, "SAME") + weight("b3", [1])
    minimize(tf.square(y - y_))


@case("AtoB/Tanh:0", "real_A:0")
def cycle_gan():
    a, b = ph("real_A", [None, 8, 8, 3]), ph("real_B", [None, 8, 8, 3])

    def generator(x, scope):
        return tf.tanh(conv(conv(x, 8, f"{scope}/c1", tf.nn.relu), 3, f"{scope}/c2"), name=f"{scope}/Tanh")

    def judge(x, scope):
        return conv(conv(x, 8, f"{scope}/c1", tf.nn.relu), 1, f"{scope}/c2")

    fake_b, fake_a = generator(a, "AtoB"), generator(b, "BtoA")
    back_a, back_b = generator(fake_b, "BtoA"), generator(fake_a, "AtoB")
    losses = [tf.reduce_mean(tf.square(judge(x, s) - 1.0)) for x, s in ((fake_b, "DB"), (b, "DB"), (fake_a, "DA"), (a, "DA"))]
    minimize(sum(losses) + tf.reduce_mean(tf.abs(back_a - a)) + tf.reduce_mean(tf.abs(back_b - b)))
