"""From values and protos to what will be written; no TensorFlow."""
