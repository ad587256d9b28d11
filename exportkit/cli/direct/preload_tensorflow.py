"""What `preload` imports before for exports whose source runs TensorFlow's Python: that alone."""

from contextlib import suppress

from exportkit.errors import EnvironmentFailed
from exportkit.processes.tensorflow import preload_tensorflow

with suppress(EnvironmentFailed):  # the export tries again, and reports it
    preload_tensorflow()
