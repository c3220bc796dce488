"""A TCP proxy between a client and a server that can close, refuse and silence connections,
drop replies, and delay both directions."""

import queue
import socket
import threading
import time
from contextlib import suppress


class Proxy:
    """Listens on ``port``, and forwards everything to the server's port."""

    def __init__(self, upstream_port, idle_timeout_s=None, round_trip_s=0):
        self._upstream_port, self._idle_timeout_s = upstream_port, idle_timeout_s
        self._delay_s = round_trip_s / 2
        self._pairs = []
        self._refusing = False
        self.drop_replies = False
        self.rejected_option = None
        """An option that is answered like an unknown one."""
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close_connections(self):
        """Closes all current connections."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _close(pair)

    def silence_connections(self):
        """Keeps all current connections open, and forwards nothing on them any longer."""
        with self._lock:
            for pair in self._pairs:
                pair.is_silent = True

    def refuse(self, refusing=True):
        """Closes all connections, and refuses new ones until called with False."""
        self._refusing = refusing
        if refusing:
            self.close_connections()

    def close(self):
        self._listener.close()
        self.close_connections()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self._refusing:
                    client.close()
                    continue
                try:
                    server = socket.create_connection(("127.0.0.1", self._upstream_port))
                except OSError:
                    client.close()
                    continue
                for end in client, server:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pair = Pair(client, server)
                with self._lock:
                    self._pairs.append(pair)
                for is_request in True, False:
                    args = (pair, is_request)
                    threading.Thread(target=self._forward, args=args, daemon=True).start()
                if self._idle_timeout_s is not None:
                    threading.Thread(
                        target=self._close_when_idle, args=(pair,), daemon=True
                    ).start()

    def _forward(self, pair, is_request):
        ends = (pair.client, pair.server)
        source, target = ends if is_request else ends[::-1]
        send = self._delayed(target) if self._delay_s else target.sendall
        with suppress(OSError):
            while data := source.recv(65536):
                pair.last_active = time.monotonic()
                if is_request and self.rejected_option and self.rejected_option in data:
                    source.sendall(b"-ERR syntax error\r\n")
                elif not pair.is_silent and (is_request or not self.drop_replies):
                    send(data)
        _close(pair)

    def _delayed(self, target):
        """Returns a function that sends data later."""
        pending = queue.SimpleQueue()

        def deliver():
            with suppress(OSError):
                while True:
                    due, data = pending.get()
                    time.sleep(max(0, due - time.monotonic()))
                    target.sendall(data)

        threading.Thread(target=deliver, daemon=True).start()
        return lambda data: pending.put((time.monotonic() + self._delay_s, data))

    def _close_when_idle(self, pair):
        while time.monotonic() - pair.last_active < self._idle_timeout_s:
            time.sleep(self._idle_timeout_s / 10)
        _close(pair)


class Pair:
    def __init__(self, client, server):
        self.client, self.server, self.last_active = client, server, time.monotonic()
        self.is_silent = False


def _close(pair):
    for end in pair.client, pair.server:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
