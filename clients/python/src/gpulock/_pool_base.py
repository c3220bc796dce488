"""What the pools for threads and for asyncio share: the locks, their devices, and how many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import _commands
from ._commands import Name
from ._devices import Device, Gpus, device_of
from ._lock_base import LockBase, Number


class PoolBase(LockBase):
    """The names and devices of a pool."""

    def __init__(
        self,
        redis: Any,
        keys: Iterable[Name] | Mapping[Name, Device],
        n: int = 1,
        timeout: Number | None = None,
        sleep: Number = 0.1,
        blocking: bool = True,
        blocking_timeout: Number | None = None,
        thread_local: bool = True,
        raise_on_release_error: bool = True,
        *,
        owner: str | bytes | None = None,
        fair: bool = False,
        session: bool = False,
        grace: Number = 0,
        renew: bool | None = None,
        on_lost: Any = None,
        on_revoked: Any = None,
        priority: int = 0,
        share: str | bytes | None = None,
    ) -> None:
        names = tuple(keys)
        if not 1 <= n <= len(names):
            raise ValueError(f"n must be from 1 to {len(names)}, the number of keys")
        given = keys if isinstance(keys, Mapping) else {}
        self._devices = {
            name: given.get(name, device_of(name, index)) for index, name in enumerate(names)
        }
        super().__init__(
            redis,
            names,
            n,
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
            devices=tuple(self._devices[name] for name in self.names if name in hold.tokens),
            tokens={
                _commands.as_text(name): hold.tokens[name]
                for name in self.names
                if name in hold.tokens
            },
        )
