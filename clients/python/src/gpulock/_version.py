"""The version of the package, from its metadata."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gpulock")
except PackageNotFoundError:
    # The modules were copied without the metadata, as by programs that bundle Python.
    __version__ = "unknown"
