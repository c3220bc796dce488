"""An alias of ``gpulock.compat``, for code that imports it under this name."""

from .compat import *  # noqa: F403
from .compat import __getattr__  # noqa: F401
