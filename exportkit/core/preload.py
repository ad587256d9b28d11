"""What the process imports from which workers are forked: TensorFlow's C library, whose ops the first look registers."""

import gc
from contextlib import suppress

import exportkit.core.worker  # noqa: F401 - the script of those workers
from exportkit.core.capi import devices, op_list
from exportkit.errors import EnvironmentFailed

with suppress(EnvironmentFailed):  # each worker tries again, and reports it
    op_list(), devices()
gc.freeze()  # a worker's garbage collector must not touch these objects: that would copy their memory pages
