"""A Django project in one file, with a view that holds a GPU. Start it with:

python django_app.py runserver --noreload
"""

import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import JsonResponse
from django.urls import path
from django_redis import get_redis_connection

import gpulock
import model

KEYS = ["{node7}:gpu:0", "{node7}:gpu:1"]

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["127.0.0.1"],
    CACHES={
        "default": {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": os.environ["REDIS_URL"],
        }
    },
)


# The client is a function: it is called for each request, when the settings are loaded.
@gpulock.locked(get_redis_connection, KEYS, timeout=60, renew=True, blocking_timeout=30)
def transcribe(request, milliseconds):
    gpus = gpulock.current_lock(gpulock.Pool).gpus
    return JsonResponse({"gpu": model.run(gpus, milliseconds / 1000)})


urlpatterns = [path("transcribe/<int:milliseconds>", transcribe)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
