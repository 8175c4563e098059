"""A port that nobody listens on."""

import random
import socket

FIRST, LAST = 20_000, 32_767
"""Below what Linux gives by default to whoever binds port 0, above Ray's ports for workers: the system gives it to nobody else
before it is used."""


def free_port() -> int:
    while True:
        port = random.SystemRandom().randint(FIRST, LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
