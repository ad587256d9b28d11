"""The imports of the process from which workers are forked: TensorFlow's C library, whose ops are registered by the first look."""

import gc
from contextlib import suppress

import exportkit.core.worker  # noqa: F401 - the script of those workers
from exportkit.core.capi import devices, op_list
from exportkit.errors import EnvironmentFailed

with suppress(EnvironmentFailed):  # each worker tries again, and reports it
    op_list(), devices()
gc.freeze()  # a worker's garbage collector must not touch these objects: that would copy their memory pages
