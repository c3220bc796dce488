"""Holds GPUs while torchrun trains on them, one process for each GPU:

python torchrun_launcher.py train.py
"""

import os
import subprocess
import sys

import redis

import gpulock

KEYS = [f"{{node7}}:gpu:{index}" for index in range(8)]
client = redis.Redis.from_url(os.environ["REDIS_URL"])

with gpulock.Pool(client, KEYS, n=2, timeout=60, renew=True, session=True) as gpus:
    command = ["torchrun", "--standalone", f"--nproc-per-node={len(gpus.devices)}"]
    training = subprocess.run([*command, *sys.argv[1:]], env=gpus.environment(), check=False)
sys.exit(training.returncode)
