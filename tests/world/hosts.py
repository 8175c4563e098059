"""Several hosts on one machine which share nothing but the network, and Ray on them.

Each host has its own network address, process ids, host name and disk: /tmp, /dev/shm, HOME, the checkout and with it the
default artifact root start out empty. Only the interpreter (.venv) is readable everywhere. The first host, where the
driver runs, has a copy of the checkout's files; the others get code from Ray's working_dir or not at all.

A host is one process (process 1 of its process namespace): when that is killed the kernel ends everything in it and its
network and disk vanish, as when a machine is lost. Nothing stays behind when the tests themselves are killed.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from cluster.session import IDLE_WORKER_S
from tests.world.conditions import kill_process, wait_for
from tests.world.host import CHECKOUT, Host
from tests.world.network import Switch, Wire, held_by_this_process

HIDDEN = ("/tmp", "/var/tmp", "/dev/shm", str(Path.home()), str(CHECKOUT))
"""Everything of this machine that code under test writes to: what is left is the operating system."""

RAY_START_S = 90.0
"""Ray's processes import for 5-10 s each on a loaded two-core machine, and a host starts about eight of them."""

OBJECT_STORE_BYTES = 200 * 2**20
"""Ray's minimum is 75 MiB; test models and batches are a few MB."""

QUICK_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}
"""Read by the head: a host that is lost without a word (its network gone) is noticed after about 13 s instead of 33 s."""

COUNT_NODES = """
import sys, time, ray
ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
deadline = time.monotonic() + float(sys.argv[2])
while (alive := sum(node["Alive"] for node in ray.nodes())) != int(sys.argv[1]):
    if time.monotonic() > deadline:
        sys.exit(f"{alive} of {sys.argv[1]} raylets are alive after {sys.argv[2]} s")
    time.sleep(0.1)
"""


def why_no_hosts() -> str | None:
    """The reason this machine cannot make separated hosts, or None."""
    if os.geteuid() != 0:
        return "separated hosts need root (network and mount namespaces)"
    missing = [name for name in ("ip", "unshare", "nsenter", "setpriv", "mount") if shutil.which(name) is None]
    if missing:
        return f"separated hosts need {', '.join(missing)} (packages iproute2 and util-linux)"
    probe = subprocess.run(
        ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "ip", "link", "add", "probe", "type", "veth"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if probe.returncode == 0 else f"namespaces or veth are not allowed here: {probe.stderr.strip()}"


class SeparatedHosts:
    """`count` hosts with one Ray cluster over them: the head on the first. Context manager; needs root.

    Example:
        with SeparatedHosts(3, logs=tmp_path) as hosts:
            hosts.start_ray({"AWS_ENDPOINT_URL": ...})
            hosts.driver.run(["python", "-m", "jobs.cli", "run", "configs/quickstart.yaml"])
            hosts[2].kill()
    """

    def __init__(self, count: int, logs: Path) -> None:
        self.count = count
        self.logs = logs
        self.hosts: list[Host] = []
        self._offers: list[str] = []
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            self._switch = starting.enter_context(Switch())
            self._addresses = self.logs / "hosts"
            self._addresses.write_text(
                "127.0.0.1 localhost\n"
                + "".join(
                    f"{self._switch.address(number)} {_host_name(number)}\n" for number in range(1, self.count + 1)
                )
            )
            self._token = secrets.token_hex(32)
            for number in range(1, self.count + 1):
                self.hosts.append(self._new_host(number, starting))
            _copy_checkout(self.driver)
            self._resources = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    def __getitem__(self, number: int) -> Host:
        """Host `number`, from 1."""
        return self.hosts[number - 1]

    @property
    def driver(self) -> Host:
        return self[1]

    @property
    def gateway_address(self) -> str:
        """Where servers of this machine must listen to be reached from the hosts."""
        return self._switch.gateway_address

    @property
    def ray_address(self) -> str:
        return f"{self.driver.address}:6379"

    def start_ray(
        self, environment: Mapping[str, str], cpus_per_host: int = 4, resources: Mapping[str, float] | None = None
    ) -> None:
        """Starts the head and the other raylets and returns when all are alive. Raises TimeoutError.

        Args:
            environment: added to every host's: AWS_* of an S3 server on `gateway_address`, QUICK_HEALTH_CHECKS.
            resources: what every host offers beside CPUs, under names of the test's own.
        """
        self._offers = [f"--num-cpus={cpus_per_host}", f"--resources={json.dumps(dict(resources or {}))}"]
        for host in self.hosts:
            host.environment.update(environment)
        head = ["--head", f"--port={self.ray_address.rsplit(':')[-1]}", "--include-dashboard=false"]
        self._start_raylet(self.driver, head)
        for host in self.hosts[1:]:
            self._start_raylet(host, [f"--address={self.ray_address}"])
        self.wait_for_nodes(self.count)

    def wait_for_nodes(self, alive: int, timeout_s: float = RAY_START_S) -> None:
        """Raises CalledProcessError with the number of raylets that are alive instead."""
        self.driver.run(["python", "-c", COUNT_NODES, str(alive), str(timeout_s)], timeout_s=timeout_s + 30)

    def replace(self, number: int) -> Host:
        """A new, empty host in the place of one that was killed, joined to the cluster."""
        old = self[number]
        assert not old.is_alive, f"{old.name} is alive: kill it first"
        new = self._new_host(number, self._resources)
        new.environment.update(old.environment)
        self.hosts[number - 1] = new
        self._start_raylet(new, [f"--address={self.ray_address}"])
        return new

    def _start_raylet(self, host: Host, role: Sequence[str]) -> None:
        own = [f"--node-ip-address={host.address}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        raylet = host.start(["ray", "start", *role, *own, *self._offers, "--block"], log="ray")

        def is_up() -> bool:
            text = host.log_path("ray").read_text()
            if raylet.poll() is not None:
                raise RuntimeError(f"ray start on {host.name} ended with {raylet.returncode}:\n{text[-4000:]}")
            return "Ray runtime started" in text

        wait_for(f"ray start on {host.name} (log {host.log_path('ray')})", is_up, RAY_START_S)

    def _new_host(self, number: int, resources: ExitStack) -> Host:
        name = _host_name(number)
        isolate = ["unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        keep = _needed_directories()
        init = ["bash", str(Path(__file__).with_name("host_init.sh")), name, str(self._addresses), *keep, "--", *HIDDEN]
        unshare = subprocess.Popen(held_by_this_process([*isolate, *init]), stdout=subprocess.PIPE, text=True)
        resources.callback(kill_process, unshare)
        assert unshare.stdout is not None
        line = unshare.stdout.readline()
        assert line == "ready\n", f"{name} did not start; its first line was {line!r}"
        init_pid = int(Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text().split()[0])
        wire = self._switch.plug_in(init_pid, number)
        host = Host(number, name, wire, self._environment(wire), self.logs, init_pid, unshare)
        resources.callback(host.kill)
        return host

    def _environment(self, wire: Wire) -> dict[str, str]:
        return {
            "PATH": f"{Path(sys.prefix) / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(Path.home()),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1",
            # gloo takes the first interface it finds otherwise, which is the loopback.
            "GLOO_SOCKET_IFNAME": wire.device,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_idle_worker_killing_time_threshold_ms": str(1000 * IDLE_WORKER_S),
        }


def _host_name(number: int) -> str:
    return f"host{number}"


def _needed_directories() -> list[str]:
    """What must stay readable below the hidden directories: the environment and the interpreter it was made from."""
    directories = {sys.prefix, sys.base_prefix, sysconfig.get_path("purelib").split("/lib/")[0]}
    return sorted(path for path in directories if any(Path(path).is_relative_to(hidden) for hidden in HIDDEN))


def _copy_checkout(host: Host) -> None:
    """Gives a host what a clone would have, and files not yet committed; nothing that git ignores."""
    git = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = [
        name for name in subprocess.check_output(git, text=True).split("\0") if name and (CHECKOUT / name).exists()
    ]
    pack = ["tar", "-C", str(CHECKOUT), "--null", "--files-from=-", "-cf", "-"]
    packed = subprocess.run(pack, input="\0".join(names).encode(), capture_output=True, check=True).stdout
    unpack = ["nsenter", "-t", str(host.init_pid), "--mount", "tar", "-C", str(CHECKOUT), "-xf", "-"]
    subprocess.run(unpack, input=packed, check=True)
