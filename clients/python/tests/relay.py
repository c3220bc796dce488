"""A TCP relay between a client and a server, that can cut, hold up and refuse: the proxy on
the way. It knows nothing of what it passes on."""

import socket
import threading
import time
from contextlib import suppress


class Relay:
    """Listens on ``port``, and passes everything on to the server's port."""

    def __init__(self, to_port, cut_idle_s=None):
        self._to_port, self._cut_idle_s = to_port, cut_idle_s
        self._pairs = []
        self._refusing = False
        self.swallow_replies = False
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Closes all connections that there are."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _close(pair)

    def refuse(self, refusing=True):
        """Nobody gets through until told otherwise."""
        self._refusing = refusing
        if refusing:
            self.cut()

    def close(self):
        self._listener.close()
        self.cut()

    def _accept(self):
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self._refusing:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self._to_port))
                except OSError:
                    near.close()
                    continue
                for end in near, far:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pair = Pair(near, far)
                with self._lock:
                    self._pairs.append(pair)
                threading.Thread(target=self._pass, args=(pair, True), daemon=True).start()
                threading.Thread(target=self._pass, args=(pair, False), daemon=True).start()
                if self._cut_idle_s is not None:
                    threading.Thread(
                        target=self._cut_when_idle, args=(pair,), daemon=True
                    ).start()

    def _pass(self, pair, there):
        source, target = (pair.near, pair.far) if there else (pair.far, pair.near)
        with suppress(OSError):
            while data := source.recv(65536):
                pair.last = time.monotonic()
                if not (self.swallow_replies and not there):
                    target.sendall(data)
        _close(pair)

    def _cut_when_idle(self, pair):
        while time.monotonic() - pair.last < self._cut_idle_s:
            time.sleep(self._cut_idle_s / 10)
        _close(pair)


class Pair:
    def __init__(self, near, far):
        self.near, self.far, self.last = near, far, time.monotonic()


def _close(pair):
    for end in pair.near, pair.far:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
