"""Do as `preload`, for a process from which many workers are forked, as those of a sweep: each finds more of it done."""

from contextlib import suppress

from exportkit.core import capi
from exportkit.errors import EnvironmentFailed

capi.bind_at_once = True

import exportkit.core.preload  # noqa: E402, F401 - it loads the library
from exportkit.core.warm import warm_up  # noqa: E402

with suppress(EnvironmentFailed):  # each worker tries again, and reports it
    warm_up()
