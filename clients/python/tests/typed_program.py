"""A program that mypy has to accept: it passes all types that names and settings may have."""

from __future__ import annotations

import redis
import redis.asyncio

import gpulock
import gpulock.asyncio


def locks(client: redis.Redis, devices: dict[str, str]) -> None:
    gpulock.Lock(client, "text", owner="run-7", share="kim")
    gpulock.Lock(client, b"bytes", owner=b"run-7", share=b"kim")
    gpulock.Lock(client, bytearray(b"array"), owner=bytearray(b"run-7"))
    gpulock.Lock(client, memoryview(b"view"), owner=memoryview(b"run-7"))
    gpulock.Lock(client, 7, owner=7, share=7)
    gpulock.Lock(client, 0.5, owner=0.5)
    gpulock.Pool(client, ["text"], owner=7, near=7)
    gpulock.Pool(client, [7, 8], share=0.5)
    gpulock.Pool(client, devices)
    gpulock.Pool(client, [devices, devices], groups=1)
    gpulock.Pool(client, [[b"a", b"b"], [b"c"]], groups=1)
    gpulock.Reservation(client, "owner", {"text": 1, 7: None})


def asyncio_locks(client: redis.asyncio.Redis, devices: dict[str, str]) -> None:
    gpulock.asyncio.Lock(client, 7, owner=7, share=7)
    gpulock.asyncio.Lock(client, memoryview(b"view"), owner=bytearray(b"run-7"))
    gpulock.asyncio.Pool(client, [bytearray(b"array")], owner=7, near=7)
    gpulock.asyncio.Pool(client, devices)
    gpulock.asyncio.Reservation(client, "owner", {"text": 1, 7: None})


def decorator(client: redis.Redis, devices: dict[str, str]) -> None:
    @gpulock.locked(client, 7, timeout=60)
    def single(seconds: float) -> int:
        return gpulock.current_lock().token or 0

    @gpulock.locked(client, devices, n=2, share=7, near=b"tag")
    def several() -> tuple[str, ...]:
        return gpulock.current_lock(gpulock.Pool).gpus.torch

    @gpulock.locked(client, lambda gpu: f"gpu_lock:{gpu}")
    def chosen(gpu: int) -> None: ...

    single(0.5)
    several()
    chosen(1)
