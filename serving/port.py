"""Is the port free? Asked before anything starts, because Ray would say so only after a minute."""

import errno
import socket

import psutil

from configs.errors import UserError


class PortInUse(UserError):
    """Another process listens where the service should."""


def require_free_port(host: str, port: int) -> None:
    """Raises PortInUse naming the process, where the system tells it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise PortInUse(f"cannot listen on {host}:{port}: {error.strerror}") from error
            raise PortInUse(
                f"port {port} on {host} is in use by {_listener(port)}. "
                f"End it (kill PID), or serve on another port: --port {port + 1}"
            ) from error


def _listener(port: int) -> str:
    for connection in psutil.net_connections("tcp"):
        listens_there = connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:2] == (port,)
        if listens_there and connection.pid is not None:
            process = psutil.Process(connection.pid)
            return f"process {process.pid} ({' '.join(process.cmdline())[:80]})"
    return "a process of another user"
