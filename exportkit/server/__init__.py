"""TensorFlow Serving's interfaces on this machine, for development, tests and demonstrations: REST and gRPC.

Answers are computed by TensorFlow's C++ core in worker processes. Status codes, messages and JSON are those of
tensorflow_model_server 2.21, as measured on it.
"""
