"""Maps locks to GPUs, and GPUs to the settings of programs that use them. No I/O."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Union

from . import _commands
from ._commands import Name

Device = Union[int, str]

UUID = r"\b(GPU|MIG)-[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"


def gpu_keys(pool: str, indices: Iterable[int], host: str | None = None) -> list[str]:
    """The lock names of a host's GPUs: ``{pool:host}:gpu:0`` and so on. They share one hash
    slot in a cluster. ``gpulock run --pool`` uses other names, with the UUIDs of the GPUs."""
    if isinstance(indices, (str, bytes)) or not isinstance(indices, Iterable):
        raise TypeError(
            f"invalid indices {indices!r}: expected a collection of integers, such as range(8)"
        )
    hostname = socket.gethostname() if host is None else host
    return [f"{{{pool}:{hostname}}}:gpu:{index}" for index in indices]


def device_of(name: Name) -> Device | None:
    """The UUID or the number at the end of a lock's name; None: it has neither."""
    text = _commands.as_text(name)
    uuid = re.search(UUID, text)  # Before the number, because a UUID can end with digits.
    if uuid:
        return uuid[0]
    number = re.search(r"\d+$", text)
    return int(number[0]) if number else None


def distinct_devices(
    names: Iterable[Name], devices: Sequence[Device | None]
) -> tuple[Device, ...]:
    """The devices of the locks. Raises ValueError if two locks have the same one, or a lock has
    none: a program would use a GPU that it does not hold."""
    advice = "map each key to its device: Pool(client, {key: device, ...})"
    name_of: dict[str, Name] = {}
    distinct = []
    for name, device in zip(names, devices):
        if device is None:
            raise ValueError(
                f"the device of key {name!r} is unknown: the key ends with no number and no "
                f"UUID, or is mapped to None; {advice}"
            )
        other = name_of.setdefault(str(device), name)
        if other != name:
            raise ValueError(
                f"keys {other!r} and {name!r} have the same device, {device!r}. "
                f"If they are different GPUs, {advice}. If they are on different hosts, "
                "use one pool for each host"
            )
        distinct.append(device)
    return tuple(distinct)


def visible_devices(devices: tuple[Device, ...]) -> dict[str, str]:
    """The variables of a process that sees only these devices."""
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, devices)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


@dataclass(frozen=True)
class Gpus:
    """The GPUs that are held, in the order in which the pool lists them."""

    tokens: Mapping[str, int | None]
    """The fencing token of each lock, by name."""
    _devices: tuple[Device | None, ...]

    @property
    def devices(self) -> tuple[Device, ...]:
        """The driver's identifiers: indices or UUIDs. Raises ValueError if a lock has none, or
        two locks have the same one."""
        return distinct_devices(self.tokens, self._devices)

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the locks."""
        return tuple(self.tokens)

    @property
    def torch(self) -> tuple[str, ...]:
        """Device names such as ``cuda:0`` for a framework in this process, which sees all
        GPUs. Raises ValueError for UUIDs. Needs CUDA_DEVICE_ORDER=PCI_BUS_ID."""
        for device in self.devices:
            if not str(device).isdecimal():
                raise ValueError(
                    f"device {device!r} is not an index, and frameworks accept no UUIDs: map "
                    "the keys to indices, or use environment() for a subprocess"
                )
        return tuple(f"cuda:{device}" for device in self.devices)

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment for a subprocess that sees only these GPUs, as ``cuda:0`` and up."""
        for key in self.tokens:
            if "," in key:
                raise ValueError(f"invalid key {key!r}: a comma separates keys in GPULOCK_KEYS")
        tokens = {
            key: "" if token is None else str(token) for key, token in self.tokens.items()
        }
        return {
            **(os.environ if base is None else base),
            **visible_devices(self.devices),
            "GPULOCK_KEYS": ",".join(tokens),
            "GPULOCK_TOKENS": ",".join(tokens.values()),
        }
