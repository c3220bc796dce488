"""Which GPU a lock stands for, and how a program is told so. Plain text; no lock, no driver."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Union

from . import _words
from ._words import Name

Device = Union[int, str]


def gpu_keys(pool: str, indices: Iterable[int], host: str | None = None) -> list[str]:
    """The names of a host's GPUs, ``{pool:host}:gpu:0`` and so on: one hash slot in a cluster,
    and the names that ``gpulock run --pool`` uses."""
    where = socket.gethostname() if host is None else host
    return [f"{{{pool}:{where}}}:gpu:{index}" for index in indices]


def device_of(name: Name, position: int) -> Device:
    """The number at the end of a lock's name, else its position in the pool."""
    number = re.search(r"(\d+)$", _words.as_text(name))
    return int(number[1]) if number else position


@dataclass(frozen=True)
class Gpus:
    """The GPUs that are held, in the order in which the pool names them."""

    devices: tuple[Device, ...]
    """What the driver calls them: an index, or a UUID."""
    tokens: Mapping[str, int | None]
    """The fencing token of each lock, by name."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the locks."""
        return tuple(self.tokens)

    @property
    def torch(self) -> tuple[str, ...]:
        """For a framework in this process, which sees all GPUs: ``cuda:0``. Only where the
        devices are indices, and with CUDA_DEVICE_ORDER=PCI_BUS_ID."""
        return tuple(f"cuda:{device}" for device in self.devices)

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a subprocess that sees these GPUs alone, as ``cuda:0`` and up."""
        known = {key: "" if token is None else str(token) for key, token in self.tokens.items()}
        return {
            **(os.environ if base is None else base),
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, self.devices)),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "GPULOCK_KEYS": ",".join(known),
            "GPULOCK_TOKENS": ",".join(known.values()),
        }
