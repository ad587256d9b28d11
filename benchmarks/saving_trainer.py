"""Train, save all the time, and keep a ledger of the saves: ``python saving_trainer.py DIRECTORY LEDGER SECONDS``.

It saves every SECONDS seconds with ``max_to_keep=5`` until there is a file LEDGER.stop. Each line of the ledger is a save: its
step, the SHA-256 of its index, and that of the bytes that its model is served with: the kernel's, then the bias'.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

from exportkit.plugin import import_tensorflow

import_tensorflow()  # without Keras: a third of the time

import tensorflow as tf  # noqa: E402

SIZE = 256
v1 = tf.compat.v1


def model():
    """Build y = x @ kernel + bias; bindings can name `x` and `y`."""
    x = v1.placeholder(tf.float32, [None, SIZE], "x")
    kernel = v1.get_variable("kernel", [SIZE, SIZE], initializer=v1.zeros_initializer())
    bias = v1.get_variable("bias", [SIZE], initializer=v1.zeros_initializer())
    return {"x": x, "y": tf.add(tf.matmul(x, kernel), bias, "y")}


def main(directory: str, ledger: str, seconds: str) -> None:
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        model()
        step = v1.train.get_or_create_global_step()
        kernel, bias = v1.global_variables()[:2]
        train = [v.assign(tf.random.uniform(v.shape)) for v in (kernel, bias)] + [step.assign_add(1)]
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(max_to_keep=5)
        with open(ledger, "a") as lines:
            while not Path(f"{ledger}.stop").exists():
                began = time.monotonic()
                session.run(train)
                prefix = saver.save(session, f"{directory}/model.ckpt", global_step=step)
                index = hashlib.sha256(Path(f"{prefix}.index").read_bytes()).hexdigest()
                served = hashlib.sha256(b"".join(value.tobytes() for value in session.run([kernel, bias]))).hexdigest()
                line = {"step": int(session.run(step)), "index": index, "served": served}
                print(json.dumps(line), file=lines, flush=True)
                time.sleep(max(0.0, float(seconds) - (time.monotonic() - began)))


if __name__ == "__main__":
    main(*sys.argv[1:])
