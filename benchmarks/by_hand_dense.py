"""Export the model of dense_checkpoint.py without exportkit, in a hand-written script.

``python by_hand_dense.py CHECKPOINT VERSION_DIRECTORY``
"""

import json
import sys
from time import perf_counter

started = perf_counter()
import tensorflow as tf  # noqa: E402

imported = perf_counter() - started
v1 = tf.compat.v1


def main(checkpoint: str, directory: str) -> None:
    with tf.Graph().as_default() as graph, v1.Session() as session:
        saver = v1.train.import_meta_graph(checkpoint + ".meta", clear_devices=True)
        saver.restore(session, checkpoint)
        inputs, outputs = {"x": graph.get_tensor_by_name("x:0")}, {"scores": graph.get_tensor_by_name("scores:0")}
        builder = v1.saved_model.Builder(directory)
        builder.add_meta_graph_and_variables(
            session,
            [v1.saved_model.tag_constants.SERVING],
            signature_def_map={"serving_default": v1.saved_model.predict_signature_def(inputs, outputs)},
            strip_default_attrs=True,
        )
        builder.save()


main(*sys.argv[1:])
print(json.dumps({"import tensorflow": imported, "export": perf_counter() - started - imported}))
