"""GPULOCK through the client's generic command call."""


class Gpulock:
    def __init__(self, client, name, number):
        self.call = client.execute_command
        self.name, self.owner = name, f"locked_by_worker{number}"

    def acquire(self):
        self.call("GPULOCK.ACQUIRE", self.name, self.owner, "EX", 600, "BLOCK", 0)

    def release(self):
        self.call("GPULOCK.RELEASE", self.name, self.owner)
