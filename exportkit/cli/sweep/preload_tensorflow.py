"""What `preload` imports, and TensorFlow's Python: for jobs whose source runs it."""

from contextlib import suppress

from exportkit.errors import EnvironmentFailed
from exportkit.processes.tensorflow import preload_tensorflow

with suppress(EnvironmentFailed):  # each job tries again, and reports it
    preload_tensorflow()

import exportkit.cli.sweep.preload  # noqa: F401 - it freezes what is there by then
