"""A TCP relay that cuts a connection when the server has done what it was asked for, and before
the answer is there. It swallows the answer to the first command with a given word."""

import socket
import threading
from contextlib import suppress


class Cutter:
    """Listens on ``port``, and cuts once."""

    def __init__(self, to_port, word):
        self._to_port, self._word, self.has_cut = to_port, word, False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to_port))
                doomed = threading.Event()
                for words in (near, far, doomed, True), (far, near, doomed, False):
                    threading.Thread(target=self._pass, args=words, daemon=True).start()

    def _pass(self, source, target, doomed, there):
        with suppress(OSError):
            while data := source.recv(65536):
                if there and self._word in data and not self.has_cut:
                    self.has_cut = True
                    doomed.set()
                if not there and doomed.is_set():
                    break
                target.sendall(data)
        for end in source, target:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
