"""What `preload` imports, and TensorFlow's Python: for jobs whose source runs it."""

import exportkit.cli.direct.preload_tensorflow
import exportkit.cli.sweep.preload  # noqa: F401 - it freezes what is there by then
