"""The example models of conf/model/: TF1 graph code and its training, as a team would have it before it uses exportkit.

The modules import nothing of exportkit. Each model trains in seconds with ``python -m exportkit.examples.<name>``. This package
only starts TensorFlow as exportkit does, without the lines that it prints when it starts, which would bury a program's output.
"""

import os
import sys

from exportkit.processes.tensorflow import import_tensorflow

if "tensorflow" not in sys.modules:  # run as a program: hide what TensorFlow logs while it is imported
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import_tensorflow()
