"""A switch of its own for each test world: one bridge in a network namespace, one wire to this machine.

    this machine (10.77.X.1) ── veth ── bridge ── veth ── host 1 (10.77.X.11)
                                           └───── veth ── host 2 (10.77.X.12) ...

Nothing is named system-wide but the wire's end on this machine; it vanishes with the namespaces, and those with the
processes which hold them, even where the tests are killed.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.world.conditions import kill_process

SUBNETS = 200
"""Worlds side by side on one machine: the third byte of the address."""


class NetworkError(RuntimeError):
    """A network command failed; the message is its standard error."""


def held_by_this_process(command: Sequence[str]) -> list[str]:
    """The same command, killed by the kernel as soon as the thread that started it is gone."""
    return ["setpriv", "--pdeathsig", "KILL", *command]


def ip(*arguments: str, namespace_pid: int | None = None) -> None:
    """Runs `ip`, in the network namespace of a process where one is given. Raises NetworkError."""
    enter = [] if namespace_pid is None else ["nsenter", f"--net=/proc/{namespace_pid}/ns/net"]
    result = subprocess.run([*enter, "ip", *arguments], capture_output=True, text=True, timeout=10, check=False)
    if result.returncode != 0:
        raise NetworkError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")


@dataclass(frozen=True)
class Wire:
    """Where a host is plugged in."""

    device: str
    address: str


class Switch:
    """A bridge that hosts are plugged into. Context manager; needs root.

    Example:
        with Switch() as switch: wire = switch.plug_in(namespace_pid, number=1)
    """

    def __enter__(self) -> Self:
        self._device: str | None = None
        self._holder = subprocess.Popen(
            held_by_this_process(["unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"]),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert self._holder.stdout is not None
            line = self._holder.stdout.readline()
            assert line == "ready\n", f"the switch's namespace did not start: {line!r}"
            ip("link", "add", "bridge", "type", "bridge", namespace_pid=self._holder.pid)
            ip("link", "set", "bridge", "up", namespace_pid=self._holder.pid)
            self._subnet = self._connect_this_machine()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def gateway_address(self) -> str:
        """The address of this machine as the hosts see it."""
        return self._address(1)

    def address(self, number: int) -> str:
        """The address of host `number` (from 1)."""
        return self._address(10 + number)

    def plug_in(self, namespace_pid: int, number: int) -> Wire:
        """Gives the network namespace of a process `eth0` with the address of host `number`."""
        port = f"host{number}"
        peer = ["peer", "name", "eth0", "netns", str(namespace_pid)]
        ip("link", "add", port, "netns", str(self._holder.pid), "type", "veth", *peer)
        ip("link", "set", port, "master", "bridge", "up", namespace_pid=self._holder.pid)
        wire = Wire("eth0", self.address(number))
        ip("address", "add", f"{wire.address}/24", "dev", wire.device, namespace_pid=namespace_pid)
        ip("link", "set", "lo", "up", namespace_pid=namespace_pid)
        ip("link", "set", wire.device, "up", namespace_pid=namespace_pid)
        return wire

    def close(self) -> None:
        # Deleted by name first: with the namespace alone it would vanish too, but some time later.
        if self._device is not None:
            ip("link", "delete", self._device)
            self._device = None
        kill_process(self._holder)

    def _address(self, last_byte: int) -> str:
        return f"10.77.{self._subnet}.{last_byte}"

    def _connect_this_machine(self) -> int:
        """Claims the first free subnet: the kernel refuses a second device of one name."""
        for offset in range(SUBNETS):
            subnet = 1 + (os.getpid() + offset) % SUBNETS
            device = f"acc{subnet}"
            peer = ["peer", "name", "uplink", "netns", str(self._holder.pid)]
            try:
                ip("link", "add", device, "type", "veth", *peer)
            except NetworkError as error:
                if "File exists" not in str(error):
                    raise
                continue
            self._device = device
            ip("link", "set", "uplink", "master", "bridge", "up", namespace_pid=self._holder.pid)
            ip("address", "add", f"10.77.{subnet}.1/24", "dev", device)
            ip("link", "set", device, "up")
            return subnet
        raise NetworkError(
            f"all {SUBNETS} subnets 10.77.X.0/24 are in use; `ip link` shows the devices acc1 ... acc200"
        )
