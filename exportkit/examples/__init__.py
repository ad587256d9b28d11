"""The models that conf/model/ shows: TF1 graph code and its training, as a team would have it before it knew exportkit.

The modules import nothing of exportkit. Each model trains in seconds with ``python -m exportkit.examples.<name>``. This package
only starts TensorFlow as exportkit does, without the lines that it prints at its start, which would hide what a program says.
"""

import os
import sys

from exportkit.processes.tensorflow import import_tensorflow

if "tensorflow" not in sys.modules:  # a program of this package: TensorFlow's first steps stay quiet too
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import_tensorflow()
