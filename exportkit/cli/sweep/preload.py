"""What the server imports from which a sweep's jobs are forked, so that no job has to: all that is exportkit's, no user's code.

Nothing may run here: no operation, no session, no list of devices (`exportkit.runtime.preload_tensorflow` says why).
"""

import gc
from contextlib import suppress

from exportkit.errors import EnvironmentFailed
from exportkit.runtime import preload_tensorflow

with suppress(EnvironmentFailed):  # each job tries again, and says so
    preload_tensorflow()


gc.freeze()  # what is here stays: no job looks through it for garbage, which would copy it
