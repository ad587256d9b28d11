"""Do as `preload`, for a process from which many workers are forked: those of a sweep."""

from exportkit.core import capi

capi.bind_at_once = True

import exportkit.core.preload  # noqa: E402, F401 - it loads the library
