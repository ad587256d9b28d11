"""Export what conf/model/mnist_meta.yaml describes without exportkit, in a hand-written script.

``python by_hand_digits.py CHECKPOINT_DIRECTORY LABELS VERSION_DIRECTORY``
"""

import json
import sys
from time import perf_counter

started = perf_counter()
import tensorflow as tf  # noqa: E402

imported = perf_counter() - started
v1 = tf.compat.v1


def main(checkpoints: str, labels: str, directory: str) -> None:
    prefix = tf.train.latest_checkpoint(checkpoints)
    with tf.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, [None], name="tf_example")
        features = tf.io.parse_example(serialized, {"images": tf.io.FixedLenFeature([64], tf.float32)})
        images = v1.placeholder_with_default(features["images"], [None, 64], name="images")
        model_inputs = {"x:0": tf.ensure_shape(images, [None, 64]), "is_training:0": tf.constant(False)}
        saver = v1.train.import_meta_graph(prefix + ".meta", clear_devices=True, input_map=model_inputs)
        saver.restore(session, prefix)

        probs = session.graph.get_tensor_by_name("probs:0")
        scores, indices = tf.math.top_k(probs, 10)
        lines = tf.lookup.TextFileInitializer(
            labels, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE
        )
        classes = tf.lookup.StaticHashTable(lines, "").lookup(tf.cast(indices, tf.int64))

        builder = v1.saved_model.Builder(directory)
        builder.add_meta_graph_and_variables(
            session,
            [v1.saved_model.tag_constants.SERVING],
            signature_def_map={
                "serving_default": v1.saved_model.classification_signature_def(serialized, classes, scores),
                "predict_images": v1.saved_model.predict_signature_def({"images": images}, {"scores": probs}),
            },
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
            strip_default_attrs=True,
        )
        builder.save()


main(*sys.argv[1:])
print(json.dumps({"import tensorflow": imported, "export": perf_counter() - started - imported}))
