"""A web service that holds a GPU for each request. Start it with:

uvicorn fastapi_app:app
"""

import os
from typing import Annotated

import redis
import redis.asyncio
from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse

import gpulock
import gpulock.asyncio
import model

KEYS = ["{node7}:gpu:0", "{node7}:gpu:1"]
client = redis.Redis.from_url(os.environ["REDIS_URL"])
asyncio_client = redis.asyncio.Redis.from_url(os.environ["REDIS_URL"])
app = FastAPI()


async def wait_for_gpu():
    """For all endpoints: a request that waits does not occupy a thread."""
    pool = gpulock.asyncio.Pool(
        asyncio_client, KEYS, timeout=60, renew=True, blocking_timeout=30
    )
    async with pool as gpus:
        yield gpus


def try_gpu():
    """Does not wait. FastAPI may leave this function in another thread than it entered it."""
    pool = gpulock.Pool(
        client, KEYS, timeout=60, renew=True, blocking=False, thread_local=False
    )
    with pool as gpus:
        yield gpus


@app.post("/threads/{seconds}")
def transcribe(seconds: float, gpus: Annotated[gpulock.Gpus, Depends(wait_for_gpu)]):
    return {"gpu": model.run(gpus, seconds)}


@app.post("/asyncio/{seconds}")
async def transcribe_asyncio(
    seconds: float, gpus: Annotated[gpulock.Gpus, Depends(wait_for_gpu)]
):
    return {"gpu": await model.run_in_thread(gpus, seconds)}


@app.post("/try/{seconds}")
def try_to_transcribe(seconds: float, gpus: Annotated[gpulock.Gpus, Depends(try_gpu)]):
    return {"gpu": model.run(gpus, seconds)}


@app.exception_handler(gpulock.LockError)
async def no_gpu(request, error):
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "30"})
