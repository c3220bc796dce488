"""What the pools for threads and for asyncio share: the locks, their devices, and how many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Union

from redis.exceptions import DataError

from . import _commands, _settings
from ._commands import Name, NameLike
from ._devices import Device, Gpus, device_of
from ._lock_base import LockBase, Number
from ._types import Hold

MAX_KEYS = 1024
NAME_TYPES = (str, bytes, bytearray, memoryview)

Group = Union[Iterable[NameLike], Mapping[NameLike, Device]]


class PoolBase(LockBase):
    """The names and devices of a pool."""

    def __init__(
        self,
        redis: Any,
        keys: Group | Iterable[Group],
        n: int = 1,
        timeout: Number | None = None,
        sleep: Number = 0.1,
        blocking: bool = True,
        blocking_timeout: Number | None = None,
        thread_local: bool = True,
        raise_on_release_error: bool = True,
        *,
        owner: NameLike | None = None,
        fair: bool = False,
        session: bool = False,
        grace: Number = 0,
        renew: bool | None = None,
        on_lost: Any = None,
        on_revoked: Any = None,
        priority: int = 0,
        share: NameLike | None = None,
        near: NameLike | None = None,
        groups: int | None = None,
    ) -> None:
        _settings.require_integer("n", n)
        if groups is not None:
            _settings.require_integer("groups", groups)
        self._devices: dict[Name, Device | None] = {}
        names: list[Name] = []
        sizes = []
        for group in [_ungrouped(keys)] if groups is None else _collection(keys):
            members = list(map(_commands.as_name, _collection(group)))
            given = group.values() if isinstance(group, Mapping) else map(device_of, members)
            self._devices.update(zip(members, given))
            names += members
            sizes.append(len(members))
        if not 1 <= len(names) <= MAX_KEYS:
            raise ValueError(f"a pool has 1 to {MAX_KEYS} keys, not {len(names)}")
        if groups is None:
            if not 1 <= n <= len(names):
                raise ValueError(f"n must be from 1 to {len(names)}, the number of keys")
        else:
            _check_groups(n, groups, sizes)
        super().__init__(
            redis,
            names,
            n,
            groups=groups,
            group_sizes=() if groups is None else tuple(sizes),
            near=near,
            timeout=timeout,
            sleep=sleep,
            blocking=blocking,
            blocking_timeout=blocking_timeout,
            thread_local=thread_local,
            raise_on_release_error=raise_on_release_error,
            owner=owner,
            fair=fair,
            session=session,
            grace=grace,
            renew=renew,
            on_lost=on_lost,
            on_revoked=on_revoked,
            priority=priority,
            share=share,
        )

    @property
    def gpus(self) -> Gpus:
        """The GPUs held here. Raises LockError when none are."""
        hold = self._require_hold("No lock of this pool is held")
        return Gpus(
            {
                os.fsdecode(name): hold.tokens[name]
                for name in self.names
                if name in hold.tokens
            },
            self._devices_of(hold),
        )

    def _devices_of(self, hold: Hold) -> tuple[Device | None, ...]:
        return tuple(self._devices[name] for name in self.names if name in hold.tokens)


def _collection(value: Any) -> Any:
    """Rejects a single name, which could be mistaken for a collection of characters."""
    if isinstance(value, NAME_TYPES) or not isinstance(value, Iterable):
        raise TypeError(f"expected a collection of keys, not {value!r}")
    return value


def _ungrouped(keys: Any) -> Any:
    """Rejects a collection of groups."""
    members = keys if isinstance(keys, Mapping) else list(_collection(keys))
    for member in members:
        if isinstance(member, Iterable) and not isinstance(member, NAME_TYPES):
            raise DataError(
                f"invalid name {member!r}: groups of keys need groups=, the number of groups "
                "to acquire"
            )
    return members


def _check_groups(n: int, groups: int, sizes: list[int]) -> None:
    if not 1 <= groups <= len(sizes):
        raise ValueError(f"groups must be from 1 to {len(sizes)}, the number of groups")
    if 0 in sizes:
        raise ValueError(f"group {sizes.index(0)} of the pool has no keys")
    if n < 1:
        raise ValueError(f"invalid n {n}: expected at least 1")
    large_enough = sum(size >= n for size in sizes)
    if large_enough < groups:
        raise ValueError(
            f"n={n} of groups={groups}: only {large_enough} of the groups have {n} keys or more"
        )
