"""A TCP proxy that drops one reply: it closes the connection after the server has executed the
first command that contains a given string, before the client receives the reply."""

import socket
import threading
from contextlib import suppress


class ReplyDroppingProxy:
    """Listens on ``port``, and drops one reply."""

    def __init__(self, upstream_port, pattern):
        self._upstream_port, self._pattern, self.has_dropped = upstream_port, pattern, False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream_port))
                drop_next = threading.Event()
                for args in (
                    (client, server, drop_next, True),
                    (server, client, drop_next, False),
                ):
                    threading.Thread(target=self._forward, args=args, daemon=True).start()

    def _forward(self, source, target, drop_next, is_request):
        with suppress(OSError):
            while data := source.recv(65536):
                if is_request and self._pattern in data and not self.has_dropped:
                    self.has_dropped = True
                    drop_next.set()
                if not is_request and drop_next.is_set():
                    break
                target.sendall(data)
        for end in source, target:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
