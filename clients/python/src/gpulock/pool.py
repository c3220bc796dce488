"""``gpulock.Pool``: any so many of some locks, all at once or none, for threads."""

from __future__ import annotations

from types import TracebackType

from ._devices import Gpus
from ._locking import Number
from ._pooling import Pooling
from .lock import ThreadLocking


class Pool(Pooling, ThreadLocking):
    """Any ``n`` of the locks named ``keys``, the first ones that are free.

    With several, all are granted together or none, and big requests do not starve. ``keys``
    may map each name to its device, an index or a UUID; otherwise the number at the end of
    the name is the index. The other settings are those of ``Lock``.

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
        """Takes ``n`` locks, and answers whether they are held now: see ``gpus``."""
        return self._acquire(self._wish(sleep, blocking, blocking_timeout, None))

    def __enter__(self) -> Gpus:
        self._enter()
        return self.gpus

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()
