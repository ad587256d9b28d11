"""More of `training_graphs`: agents, detectors, metrics learnt, graphs, recommenders, and unusual ways of feeding."""

import numpy as np
import tensorflow as tf
from training_graphs import (
    accuracy,
    case,
    conv,
    dense,
    dropout,
    flat,
    lookup,
    minimize,
    ph,
    plain,
    queue,
    recurrent,
    scopes,
    softmax_loss,
    sparse_loss,
    v1,
    weight,
)

# Agents


@case("predictedReward:0", "input:0")
def q_values_of_which_the_loss_sees_one():
    state, action, reward = ph("input", [None, 14]), ph("actioninput", [None], tf.int32), ph("reward", [None])
    q = tf.add(tf.matmul(tf.nn.relu(plain(state, 20)), weight("w", [20, 8])), weight("b", [8]), name="predictedReward")
    minimize(tf.square(tf.reduce_sum(q * tf.one_hot(action, 8), 1) - reward))


@case("eval_net/l2/add:0", "s:0")
def dqn_with_a_target_net():
    s, s_ = ph("s", [None, 6]), ph("s_", [None, 6])
    a, r = ph("a", [None], tf.int32), ph("r", [None])

    def net(x):
        with v1.variable_scope("l1"):
            h = tf.nn.relu(tf.matmul(x, weight("w1", [6, 10])) + weight("b1", [1, 10]))
        with v1.variable_scope("l2"):
            return tf.matmul(h, weight("w2", [10, 4])) + weight("b2", [1, 4])

    with v1.variable_scope("eval_net"):
        q = net(s)
    with v1.variable_scope("target_net"):
        later = net(s_)
    with v1.variable_scope("q_target"):
        target = tf.stop_gradient(r + 0.9 * tf.reduce_max(later, 1))
    with v1.variable_scope("q_eval"):
        chosen = tf.gather_nd(q, tf.stack([tf.range(tf.shape(a)[0]), a], 1))
    with v1.variable_scope("loss"):
        loss = tf.reduce_mean(tf.math.squared_difference(target, chosen))
    v1.train.RMSPropOptimizer(0.01).minimize(loss, var_list=v1.trainable_variables("eval_net"))
    [v1.assign(t, e) for t, e in zip(v1.trainable_variables("target_net"), v1.trainable_variables("eval_net"), strict=True)]


@case(("q:0", "ArgMax:0"), "state:0")
def dueling_dqn():
    state, action, target = ph("state", [None, 8]), ph("action", [None], tf.int32), ph("target", [None])
    h = dense(state, 16, "h", tf.nn.relu)
    value, advantage = dense(h, 1, "value"), dense(h, 4, "advantage")
    q = tf.add(value, advantage - tf.reduce_mean(advantage, 1, keepdims=True), name="q")
    tf.argmax(q, 1)
    minimize(tf.square(target - tf.reduce_sum(q * tf.one_hot(action, 4), 1)))


@case("global/policy/Softmax:0", "global/state:0")
def a3c_with_a_global_net_and_workers():
    for scope in ("global", "worker_0", "worker_1"):
        with v1.variable_scope(scope):
            state = ph("state", [None, 8])
            h = dense(state, 16, "h", tf.nn.relu)
            policy, value = dense(h, 3, "policy", tf.nn.softmax), dense(h, 1, "value")
            if scope == "global":
                continue
            action, advantage, target = ph("action", [None], tf.int32), ph("advantage", [None]), ph("target_v", [None])
            chosen = tf.reduce_sum(policy * tf.one_hot(action, 3), 1)
            entropy = -tf.reduce_sum(policy * tf.math.log(policy))
            loss = tf.reduce_sum(tf.square(target - tf.reshape(value, [-1]))) - tf.reduce_sum(tf.math.log(chosen) * advantage)
            minimize(loss - 0.01 * entropy)


@case("Softmax:0", "observations:0")
def policy_gradient_with_a_sampled_action():
    s, a, g = ph("observations", [None, 4]), ph("actions", [None], tf.int32), ph("discounted_reward", [None])
    logits = plain(tf.nn.relu(plain(s, 8)), 2)
    tf.nn.softmax(logits)
    tf.squeeze(v1.multinomial(logits, 1))
    minimize(sparse_loss(a, logits) * g)


@case("pi/probs:0", "state:0")
def ppo_with_an_old_policy():
    s, a, adv, ret = ph("state", [None, 4]), ph("action", [None], tf.int32), ph("advantage", [None]), ph("return", [None, 1])

    def policy(scope):
        with v1.variable_scope(scope):
            return tf.nn.softmax(dense(dense(s, 8, "l1", tf.nn.relu), 3, "out"), name="probs")

    pi, old = policy("pi"), policy("oldpi")
    value = dense(dense(s, 8, "critic/l1", tf.nn.relu), 1, "critic/out")
    hot = tf.one_hot(a, 3)
    ratio = tf.reduce_sum(pi * hot, 1) / tf.reduce_sum(old * hot, 1)
    minimize(-tf.minimum(ratio * adv, tf.clip_by_value(ratio, 0.8, 1.2) * adv))
    minimize(tf.square(ret - value))


@case("actor/scaled:0", "state:0")
def ddpg():
    s, a, y = ph("state", [None, 4]), ph("action", [None, 2]), ph("y", [None, 1])

    def critic(action):
        with v1.variable_scope("critic", reuse=v1.AUTO_REUSE):
            return dense(tf.nn.relu(dense(tf.concat([s, action], 1), 8, "h")), 1, "q")

    with v1.variable_scope("actor"):
        mu = tf.multiply(dense(dense(s, 8, "h", tf.nn.relu), 2, "out", tf.tanh), 2.0, name="scaled")
    minimize(tf.reduce_mean(tf.square(y - critic(a))) - tf.reduce_mean(critic(mu)))


@case("policy/Softmax:0", "board:0")
def policy_and_value_of_a_game():
    board, pis, vs = ph("board", [None, 6, 7]), ph("target_pis", [None, 7]), ph("target_vs", [None])
    h = flat(conv(tf.reshape(board, [-1, 6, 7, 1]), 8, "conv1", tf.nn.relu))
    logits = dense(h, 7, "pi")
    with v1.name_scope("policy"):
        tf.nn.softmax(logits)
    v = tf.nn.tanh(dense(h, 1, "v"), name="value")
    minimize(tf.reduce_mean(softmax_loss(pis, logits)) + tf.reduce_mean(tf.square(vs - tf.reshape(v, [-1]))))


# Detectors and images


@case(("output:0", "BiasAdd:0"), "input:0")
def yolo():
    x, truth, mask = ph("input", [None, 16, 16, 3]), ph("boxes_truth", [None, 4, 4, 5]), ph("object_mask", [None, 4, 4])
    h = conv(conv(x, 8, "c1", tf.nn.leaky_relu, stride=2), 8, "c2", tf.nn.leaky_relu, stride=2)
    out = tf.identity(conv(h, 5, "c3", size=1), name="output")
    with v1.name_scope("loss"):
        xy, wh, confidence = tf.sigmoid(out[..., 0:2]), tf.exp(out[..., 2:4]), tf.sigmoid(out[..., 4])
        loss = tf.reduce_sum(tf.square(xy - truth[..., 0:2])) + tf.reduce_sum(tf.square(wh - truth[..., 2:4]))
        minimize(loss + tf.reduce_sum(tf.square(confidence - mask)))


@case("ssd/predictions/Softmax:0", "image:0")
def ssd_with_boxes_and_classes():
    x, classes, boxes = ph("image", [None, 16, 16, 3]), ph("gclasses", [None], tf.int64), ph("glocalisations", [None, 4])
    h = conv(x, 8, "ssd/block4", tf.nn.relu)
    logits = tf.reshape(conv(h, 6, "ssd/block4_box/conv_cls"), [-1, 3])
    with scopes("ssd", "predictions"):
        tf.nn.softmax(logits)
    places = tf.reshape(conv(h, 8, "ssd/block4_box/conv_loc"), [-1, 4])
    with v1.name_scope("ssd_losses"):
        minimize(sparse_loss(classes, logits))
        minimize(tf.abs(places - boxes))


@case("predictions:0", "image:0", {"keep_probabilty:0": 1.0})
def fcn_with_an_annotated_prediction():
    image, annotation = ph("image", [None, 16, 16, 3]), ph("annotation", [None, 16, 16, 1], tf.int32)
    keep = ph("keep_probabilty", None)
    logits = conv(dropout(conv(image, 8, "c1", tf.nn.relu), keep), 4, "c2")
    tf.nn.softmax(logits, name="predictions")
    tf.expand_dims(tf.argmax(logits, 3), 3, name="prediction_ids")
    minimize(sparse_loss(tf.squeeze(annotation, [3]), logits))


@case("Sigmoid:0", "Placeholder:0")
def unet_for_masks():
    x, y = v1.placeholder(tf.float32, [None, 16, 16, 1]), v1.placeholder(tf.float32, [None, 16, 16, 1])
    logits = conv(conv(x, 8, "c1", tf.nn.relu), 1, "c2")
    p = tf.sigmoid(logits)
    with v1.name_scope("dice"):
        dice = 2 * tf.reduce_sum(p * y) / (tf.reduce_sum(p) + tf.reduce_sum(y))
    minimize(1 - dice)


@case("response:0", "exemplar:0 instance:0")
def siamese_tracker_without_a_batch():
    z, x, y = ph("exemplar", [8, 8, 3]), ph("instance", [16, 16, 3]), ph("labels", [1, 9, 9])

    def features(image, reuse):
        with v1.variable_scope("siamese", reuse=reuse):
            return conv(tf.expand_dims(image, 0), 4, "c1", tf.nn.relu)

    a, b = features(z, False), features(x, True)
    kernel = tf.expand_dims(tf.squeeze(a, 0), 3)
    kernel = tf.transpose(kernel, [0, 1, 2, 3])
    response = tf.squeeze(tf.nn.conv2d(b, kernel, 1, "VALID"), 3)
    response = tf.add(response * weight("adjust/gain", []), weight("adjust/bias", []), name="response")
    minimize(tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=response))


@case(("embeddings:0", "l2_normalize:0"), "input:0", {"phase_train:0": False})
def face_embeddings_behind_a_classifier():
    x, phase = ph("input", [None, 16, 16, 3]), ph("phase_train", [], tf.bool)
    labels = ph("labels", [None], tf.int32)
    h = flat(conv(x, 4, "c1", tf.nn.relu))
    h = v1.cond(phase, lambda: v1.nn.dropout(h, rate=0.2), lambda: tf.identity(h))
    h.set_shape([None, 1024])
    prelogits = dense(h, 16, "Bottleneck")
    tf.nn.l2_normalize(prelogits, 1, 1e-10, name="embeddings")
    logits = dense(prelogits, 100, "Logits")
    minimize(v1.losses.sparse_softmax_cross_entropy(labels, logits))


@case("l2_normalize:0", "anchor:0")
def triplets():
    images = [ph(name, [None, 12]) for name in ("anchor", "positive", "negative")]
    a, p, n = (tf.nn.l2_normalize(dense(image, 4, "net"), 1) for image in images)
    near, far = tf.reduce_sum(tf.square(a - p), 1), tf.reduce_sum(tf.square(a - n), 1)
    minimize(tf.maximum(near - far + 0.2, 0.0))


@case("pose/concat_stage7:0", "image:0")
def poses_by_stages():
    x, heat = ph("image", [None, 16, 16, 3]), ph("heatmap", [None, 16, 16, 4])
    h = conv(x, 8, "stem", tf.nn.relu)
    one = conv(h, 4, "stage1")
    two = conv(tf.concat([h, one], 3), 4, "stage2")
    tf.identity(two, name="pose/concat_stage7")
    minimize(tf.nn.l2_loss(one - heat) + tf.nn.l2_loss(two - heat))


@case("Softmax:0", "DecodeJpeg/contents:0")
def bytes_of_an_image():
    contents, y = ph("DecodeJpeg/contents", [], tf.string), ph("truth", [None], tf.int64)
    image = tf.expand_dims(tf.cast(tf.io.decode_jpeg(contents, 3), tf.float32), 0)
    image = v1.image.resize_bilinear(image, [16, 16])
    logits = plain(flat(image), 3)
    tf.nn.softmax(logits)
    minimize(sparse_loss(y, logits))


# Graphs and recommenders


@case(("Softmax:0", "AddN:0"), "support/indices:0 support/values:0 support/shape:0 x:0", {"dropout:0": 0.0})
def graph_convolution():
    support, x = v1.sparse_placeholder(tf.float32, name="support"), ph("x", [None, 12])
    labels, mask = ph("labels", [None, 3]), ph("labels_mask", [None], tf.int32)
    rate = v1.placeholder_with_default(0.0, [], "dropout")
    h = tf.nn.relu(tf.sparse.sparse_dense_matmul(support, tf.matmul(dropout(x, 1 - rate), weight("w1", [12, 8]))))
    out = v1.add_n([tf.sparse.sparse_dense_matmul(support, tf.matmul(h, weight("w2", [8, 3])))])
    tf.nn.softmax(out)
    loss = softmax_loss(labels, out) * tf.cast(mask, tf.float32)
    accuracy(out, labels)
    minimize(loss)


@case("prediction:0", "user:0 item:0")
def matrix_factorisation():
    user, item, rating = ph("user", [None], tf.int32), ph("item", [None], tf.int32), ph("rating", [None])
    u, i = lookup(user, 50, 8, "user_embedding"), lookup(item, 40, 8, "item_embedding")
    prediction = tf.reduce_sum(u * i, 1, name="prediction")
    minimize(tf.square(prediction - rating) + 0.01 * tf.nn.l2_loss(u))


@case("out:0", "feat_index:0 feat_value:0", {"dropout_keep_deep:0": 1.0})
def deep_fm():
    index, value, y = ph("feat_index", [None, 6], tf.int32), ph("feat_value", [None, 6]), ph("label", [None, 1])
    keep = ph("dropout_keep_deep", [])
    e = lookup(index, 100, 4, "feature_embeddings") * tf.expand_dims(value, -1)
    first = tf.reduce_sum(tf.squeeze(lookup(index, 100, 1, "feature_bias"), -1) * value, 1, keepdims=True)
    deep = dense(dropout(dense(tf.reshape(e, [-1, 24]), 8, "deep", tf.nn.relu), keep), 1, "concat_projection")
    out = tf.sigmoid(first + deep, name="out")
    minimize(v1.losses.log_loss(y, out))


@case("Sigmoid:0", "user:0 pos:0")
def ranked_in_pairs():
    user, pos, neg = (ph(name, [None], tf.int32) for name in ("user", "pos", "neg"))
    u = lookup(user, 50, 8, "users")
    table = weight("items", [40, 8])
    score = [tf.reduce_sum(u * tf.nn.embedding_lookup(table, i), 1) for i in (pos, neg)]
    tf.sigmoid(score[0])
    minimize(-tf.math.log_sigmoid(score[0] - score[1]))


# Ways of feeding and saving


@case("prediction:0", "x:0")
def five_copies_of_one_net():
    for _ in range(5):
        x, y = ph("x", [None, 9]), ph("y", [None, 1])
        prediction = tf.nn.sigmoid(plain(tf.nn.relu(plain(x, 6)), 1), name="prediction")
        minimize(tf.square(prediction - y))


@case("q/value/Relu:0", "q/X:0", lacks=("agent/fc/kernel", "agent/fc/bias"))
def one_net_that_was_saved_of_two():
    with v1.variable_scope("agent"):
        other = dense(ph("state", [None, 8]), 4, "fc", tf.nn.softmax)
    tf.nn.top_k(other, 2)
    with v1.variable_scope("q"):
        x, y = ph("X", [None, 8]), ph("y", [None, 1])
        out = dense(dense(x, 8, "l1", tf.nn.relu), 1, "value", tf.nn.relu)
        minimize(tf.math.squared_difference(y, out))


@case("BiasAdd_1:0", "Placeholder_1:0", {"Placeholder:0": False})
def a_flag_and_data_of_unknown_shape():
    flag, x, y = v1.placeholder(tf.bool), v1.placeholder(tf.float32), v1.placeholder(tf.float32)
    h = tf.nn.tanh(tf.nn.bias_add(tf.matmul(x, weight("w1", [8, 6])), weight("b1", [6])))
    h = v1.cond(flag, lambda: v1.nn.dropout(h, rate=0.5), lambda: tf.identity(h))
    out = tf.nn.bias_add(tf.matmul(h, weight("w2", [6, 1])), weight("b2", [1]))
    minimize(tf.square(out - y))


@case("Softmax:0", "Placeholder:0", {"Placeholder_2:0": 0.0, "Placeholder_3:0": 1.0})
def rates_without_names_or_shapes():
    x, y = v1.placeholder(tf.float32, [None, 8]), v1.placeholder(tf.float32, [None, 2])
    rate, keep = v1.placeholder(tf.float32), v1.placeholder(tf.float32)
    h = v1.nn.dropout(tf.nn.relu(plain(x, 8)), rate=rate)
    h.set_shape([None, 8])
    h = dropout(tf.nn.relu(plain(h, 8)), keep)
    logits = plain(h, 2)
    tf.nn.softmax(logits)
    minimize(softmax_loss(y, logits))


@case("prob:0", "x:0")
def a_queue_that_a_default_stands_before():
    images, labels = queue((tf.float32, [8]), (tf.int64, []))
    x, y = v1.placeholder_with_default(images, [None, 8], "x"), v1.placeholder_with_default(labels, [None], "y")
    logits = dense(x, 3, "fc")
    tf.nn.softmax(logits, name="prob")
    minimize(sparse_loss(y, logits))


@case("Softmax:0", "ReaderReadV2:1")
def records_of_a_reader():
    files = v1.FIFOQueue(10, [tf.string], [[]], name="input_producer")
    _, serialized = v1.TFRecordReader().read(files)
    parsed = v1.parse_single_example(
        serialized, {"image": v1.FixedLenFeature([8], tf.float32), "label": v1.FixedLenFeature([1], tf.int64)}
    )
    logits = plain(tf.reshape(parsed["image"], [-1, 8]), 3)
    tf.nn.softmax(logits)
    minimize(sparse_loss(tf.reshape(parsed["label"], [-1]), logits))


@case("Softmax:0", "ids:0 state_in:0")
def a_fed_state():
    ids, state = ph("ids", [None, 1], tf.int32), ph("state_in", [None, 8])
    y = ph("targets", [None], tf.int32)
    e = tf.squeeze(lookup(ids, 30, 8), 1)
    new = tf.tanh(tf.matmul(tf.concat([e, state], 1), weight("kernel", [16, 8])), name="state_out")
    logits = tf.matmul(new, weight("w", [8, 30])) + weight("b", [30])
    tf.nn.softmax(logits)
    minimize(sparse_loss(y, logits))


@case("probs:0", "ids:0 temperature:0")
def a_temperature():
    ids, temperature, y = ph("ids", [None], tf.int32), ph("temperature", []), ph("targets", [None], tf.int32)
    logits = dense(lookup(ids, 30, 8), 30, "fc")
    tf.nn.softmax(logits / temperature, name="probs")
    minimize(sparse_loss(y, logits))


@case("Softmax:0", "x:0", {"is_testing:0": True})
def a_switch_that_is_on_when_it_serves():
    x, y, testing = ph("x", [None, 8]), ph("y", [None, 3]), ph("is_testing", [], tf.bool)
    h = dense(x, 8, "h")
    h = v1.cond(testing, lambda: tf.identity(h), lambda: v1.nn.dropout(h, rate=0.5))
    h.set_shape([None, 8])
    logits = plain(h, 3)
    tf.nn.softmax(logits)
    minimize(softmax_loss(y, logits))


@case("age/Softmax:0", "images:0")
def two_heads_of_one_trunk():
    x, age, gender = ph("images", [None, 16]), ph("age_labels", [None], tf.int64), ph("gender_labels", [None], tf.int64)
    h = dense(x, 8, "trunk", tf.nn.relu)
    losses = []
    for scope, width, labels in (("age", 10, age), ("gender", 2, gender)):
        logits = dense(h, width, f"{scope}_logits")
        with v1.name_scope(scope):
            tf.nn.softmax(logits)
        losses.append(tf.reduce_mean(sparse_loss(labels, logits)))
    minimize(sum(losses))


@case("add:0", "x:0")
def center_loss_beside_softmax():
    x, y = ph("x", [None, 8]), ph("labels", [None], tf.int32)
    features = dense(x, 4, "features")
    logits = tf.add(tf.matmul(features, weight("w", [4, 3])), weight("b", [3]), name="add")
    centers = weight("centers", [3, 4], trainable=False)
    near = tf.nn.l2_loss(features - tf.gather(centers, y))
    minimize(sparse_loss(y, logits) + near)


@case("fc/BiasAdd:0", "x:0")
def labels_out_of_a_table():
    x, y = ph("x", [None, 4]), ph("y", [None], tf.int64)
    logits = dense(x, 3, "fc")
    initializer = v1.lookup.KeyValueTensorInitializer(np.arange(3), np.array(["a", "b", "c"]), tf.int64, tf.string)
    table = v1.lookup.StaticHashTable(initializer, "")
    table.lookup(tf.argmax(logits, 1))
    minimize(sparse_loss(y, logits))


@case("Exp:0", "x:0")
def counts_by_poisson():
    x, y = ph("x", [None, 4]), ph("y", [None, 1])
    rate = tf.exp(plain(x, 1))
    minimize(rate - y * tf.math.log(rate))


@case("mixture/pi:0", "x:0")
def mixture_density():
    x, y = ph("x", [None, 1]), ph("y", [None, 1])
    h = dense(x, 8, "h", tf.tanh)
    with v1.name_scope("mixture"):
        pi = tf.nn.softmax(plain(h, 4), name="pi")
        sigma, mu = tf.exp(plain(h, 4), name="sigma"), tf.identity(plain(h, 4), name="mu")
    density = tf.exp(-tf.square((y - mu) / sigma) / 2) / sigma
    minimize(-tf.math.log(tf.reduce_sum(pi * density, 1)))


# What is offered beside the likeliest output


@case("ctr_prob:0", "x:0", {"drop_rate:0": 0.0})
def two_events_by_log_losses():
    x, rate = ph("x", [None, 6]), ph("drop_rate", None)
    clicked, bought = ph("clicked", [None, 1]), ph("bought", [None, 1])
    h = v1.nn.dropout(dense(x, 8, "shared", tf.nn.relu), rate=rate)
    h.set_shape([None, 8])
    ctr = tf.sigmoid(dense(h, 1, "ctr_logit"), name="ctr_prob")
    cvr = tf.sigmoid(dense(h, 1, "cvr_logit"), name="cvr_prob")
    minimize(v1.losses.log_loss(clicked, ctr) + v1.losses.log_loss(bought, tf.multiply(ctr, cvr, name="ctcvr")))


@case(["detection_boxes:0", "detection_scores:0", "detection_classes:0"], "image:0")
def detections_named_to_be_fetched():
    image, boxes, classes = ph("image", [None, 8]), ph("gt_boxes", [None, 16]), ph("gt_classes", [None, 4], tf.int64)
    h = dense(image, 8, "trunk", tf.nn.relu)
    box, scores = dense(h, 16, "box"), tf.reshape(dense(h, 12, "class"), [-1, 4, 3])
    minimize(tf.reduce_mean(tf.abs(box - boxes)) + tf.reduce_mean(sparse_loss(classes, scores)))
    with v1.name_scope("Postprocessor"):
        best, place = tf.nn.top_k(tf.reduce_max(tf.nn.softmax(scores)[:, :, 1:], 2), 2)
        first = tf.gather(tf.reshape(box, [-1, 4, 4]), place, batch_dims=1)
        kind = tf.gather(tf.argmax(scores, 2), place, batch_dims=1)
    for value, name in ((first, "detection_boxes"), (best, "detection_scores"), (kind, "detection_classes")):
        tf.identity(value, name=name)


@case("Softmax_4:0", "batchX:0 init_state:0")
def steps_of_an_unrolled_net():
    x, y, state = ph("batchX", [20, 5]), ph("batchY", [20, 5], tf.int32), ph("init_state", [20, 4])
    kernel, out = weight("kernel", [5, 4]), weight("out", [4, 2])
    losses = []
    for value, label in zip(tf.unstack(x, axis=1), tf.unstack(y, axis=1), strict=True):
        state = tf.tanh(tf.matmul(tf.concat([tf.reshape(value, [20, 1]), state], 1), kernel))
        logits = tf.matmul(state, out)
        tf.nn.softmax(logits)
        losses.append(sparse_loss(label, logits))
    minimize(tf.reduce_mean(losses))


@case("Sigmoid:0", "item_ids/shape:0 item_ids/values:0 item_ids/indices:0 dense:0")
def sparse_ids_beside_dense_features():
    ids, features, y = v1.sparse_placeholder(tf.int64, [None, None], "item_ids"), ph("dense", [None, 5]), ph("y", [None, 1])
    table = weight("table", [30, 8])
    h = tf.concat([v1.nn.safe_embedding_lookup_sparse(table, ids, combiner="mean"), features], 1)
    out = tf.sigmoid(dense(h, 1, "out") * 2.0)
    minimize(-(y * tf.math.log(out + 1e-7) + (1 - y) * tf.math.log(1 - out + 1e-7)))


@case("fc/BiasAdd:0", "x:0", {"phase:0": False})
def statistics_of_a_batch_beside_the_answer():
    x, y, phase = ph("x", [None, 8]), ph("y", [None, 1]), ph("phase", [], tf.bool)
    h = dense(x, 6, "h")
    mean, variance = tf.nn.moments(h, [0])
    moving = [weight(name, [6], trainable=False) for name in ("moving_mean", "moving_variance")]
    for value, kept in zip((mean, variance), moving, strict=True):
        with v1.name_scope("AssignMovingAvg"):
            v1.assign_sub(kept, (kept - value) * 0.1)
    used = [v1.cond(phase, lambda v=v: v, lambda k=k: tf.identity(k)) for v, k in zip((mean, variance), moving, strict=True)]
    out = dense(tf.nn.batch_normalization(h, *used, None, None, 1e-3), 1, "fc")
    minimize(tf.square(out - y))


@case("decoder/infer/transpose:0", "encoder_inputs:0")
def decoder_that_is_fed_its_answer_in_training():
    source, target = ph("encoder_inputs", [None, None], tf.int32), ph("decoder_inputs", [None, None], tf.int32)
    labels = ph("decoder_targets", [None, None], tf.int32)
    _, state = recurrent(lookup(source, 30, 8, "source"), 8, "encoder")
    words, cell = weight("words", [30, 8]), weight("cell", [16, 8])
    out = weight("out", [8, 30])

    def step(ids, state):
        return tf.tanh(tf.matmul(tf.concat([tf.nn.embedding_lookup(words, ids), state], 1), cell))

    with v1.name_scope("decoder"):
        forced = tf.scan(lambda s, ids: step(ids, s), tf.transpose(target), state)
        logits = tf.tensordot(forced, out, 1)
        minimize(tf.reduce_mean(sparse_loss(tf.transpose(labels), logits)))

        def greedy(t, ids, state, found):
            state = step(ids, state)
            ids = tf.argmax(tf.matmul(state, out), 1, output_type=tf.int32)
            return t + 1, ids, state, found.write(t, ids)

        with v1.name_scope("infer"):
            first = tf.zeros([tf.shape(source)[0]], tf.int32)
            start = (0, first, state, tf.TensorArray(tf.int32, 4))
            *_, found = v1.while_loop(lambda t, *_: t < 4, greedy, start)
            tf.transpose(found.stack())
