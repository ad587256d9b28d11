"""The import of TensorFlow's Python in the server process, for jobs whose sources need it; else it holds the C library only.

Nothing may run here: no operation, no session, no list of devices (`exportkit.processes.tensorflow.preload_tensorflow` explains
why).
"""

from contextlib import suppress

from exportkit.errors import EnvironmentFailed
from exportkit.processes.tensorflow import preload_tensorflow

with suppress(EnvironmentFailed):  # each job tries again, and reports it
    preload_tensorflow()
