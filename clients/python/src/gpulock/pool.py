"""``gpulock.Pool``: any ``n`` of several locks, all of them or none, for threads."""

from __future__ import annotations

from ._devices import Gpus
from ._lock_base import Number
from ._pool_base import PoolBase
from .lock import ThreadLockBase


class Pool(PoolBase, ThreadLockBase):
    """Any ``n`` of the locks named ``keys``; the first free ones are chosen.

    All ``n`` are granted together or none, and a request for many is not starved by smaller
    ones. ``keys`` may map each name to its device, an index or a UUID; otherwise the number or
    UUID at the end of the name is the device. The other arguments are those of ``Lock``.

    ``near`` is a tag of this work, such as the name of a model: free locks whose last hold had
    the same tag are preferred. With ``groups=m``, ``keys`` is a collection of groups, each a
    collection or mapping of names, and ``n`` locks of each of ``m`` groups are acquired.

    ::

        with gpulock.Pool(redis, gpulock.gpu_keys("gpus", range(8)), n=2, timeout=60) as gpus:
            subprocess.run(["python", "train.py"], env=gpus.environment())
    """

    def acquire(
        self,
        sleep: Number | None = None,
        blocking: bool | None = None,
        blocking_timeout: Number | None = None,
    ) -> bool:
        """Acquires ``n`` locks, and returns whether they are held now. See ``gpus``."""
        return self._acquire(self._request(sleep, blocking, blocking_timeout, None))

    def __enter__(self) -> Gpus:
        return self._enter(lambda: self.gpus)
