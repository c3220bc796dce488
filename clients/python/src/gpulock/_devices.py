"""Maps locks to GPUs, and GPUs to the settings of programs that use them. No I/O."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Union

from . import _commands
from ._commands import Name

Device = Union[int, str]


def gpu_keys(pool: str, indices: Iterable[int], host: str | None = None) -> list[str]:
    """The lock names of a host's GPUs: ``{pool:host}:gpu:0`` and so on. They share one hash
    slot in a cluster. ``gpulock run --pool`` uses other names, with the UUIDs of the GPUs."""
    if isinstance(indices, (str, bytes)) or not isinstance(indices, Iterable):
        raise TypeError(
            f"invalid indices {indices!r}: expected a collection of integers, such as range(8)"
        )
    hostname = socket.gethostname() if host is None else host
    return [f"{{{pool}:{hostname}}}:gpu:{index}" for index in indices]


def device_of(name: Name, index: int) -> Device:
    """The number at the end of a lock's name, or else the lock's index in the pool."""
    number = re.search(r"(\d+)$", _commands.as_text(name))
    return int(number[1]) if number else index


def visible_devices(devices: tuple[Device, ...]) -> dict[str, str]:
    """The variables of a process that sees only these devices."""
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, devices)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


@dataclass(frozen=True)
class Gpus:
    """The GPUs that are held, in the order in which the pool lists them."""

    devices: tuple[Device, ...]
    """The driver's identifiers: indices or UUIDs."""
    tokens: Mapping[str, int | None]
    """The fencing token of each lock, by name."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the locks."""
        return tuple(self.tokens)

    @property
    def torch(self) -> tuple[str, ...]:
        """Device names such as ``cuda:0`` for a framework in this process, which sees all
        GPUs. Valid only for devices given as indices, with CUDA_DEVICE_ORDER=PCI_BUS_ID."""
        return tuple(f"cuda:{device}" for device in self.devices)

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment for a subprocess that sees only these GPUs, as ``cuda:0`` and up."""
        tokens = {
            key: "" if token is None else str(token) for key, token in self.tokens.items()
        }
        return {
            **(os.environ if base is None else base),
            **visible_devices(self.devices),
            "GPULOCK_KEYS": ",".join(tokens),
            "GPULOCK_TOKENS": ",".join(tokens.values()),
        }
