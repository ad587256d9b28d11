"""Ask a SavedModel in a bare loop over ``tf.saved_model.load``: ``serve_loop.py VERSION REQUESTS ROWS``."""

import json
import sys
from time import perf_counter

import numpy as np
import serve_client
import tensorflow as tf

version, requests, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ask = tf.saved_model.load(version).signatures[serve_client.SIGNATURE]
images = np.linspace(0, 1, rows * serve_client.FEATURES, dtype=np.float32).reshape(rows, -1)
latencies = []
ask(images=tf.constant(images))["scores"].numpy()
for _ in range(requests):
    begun = perf_counter()
    ask(images=tf.constant(images))["scores"].numpy()
    latencies.append(perf_counter() - begun)
print(json.dumps({"latencies": latencies}))
