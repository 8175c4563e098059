"""The separated hosts are separate, and Ray, gloo and S3 connect them: what the tests over several hosts stand on."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.storage import Store
from tests.cluster.on_hosts import Group
from tests.world.conditions import kill_process, wait_for
from tests.world.hosts import CHECKOUT, QUICK_HEALTH_CHECKS, SeparatedHosts, why_no_hosts
from tests.world.s3 import s3_server

NO_HOSTS = why_no_hosts()
pytestmark = [pytest.mark.cluster, pytest.mark.skipif(NO_HOSTS is not None, reason=str(NO_HOSTS))]

GROUP_START_S = 150
"""Three times what a group of three took on two loaded cores: each rank imports torch for 10-20 s."""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeparatedHosts]:
    with SeparatedHosts(3, tmp_path_factory.mktemp("hosts")) as three:
        yield three


@pytest.fixture(scope="module")
def store(hosts: SeparatedHosts) -> Iterator[Store]:
    """A store on an S3 server which all hosts reach, after Ray was started on them."""
    with s3_server(hosts.gateway_address) as s3, pytest.MonkeyPatch.context() as environment:
        for name, value in s3.environment().items():
            environment.setenv(name, value)
        hosts.start_ray({**s3.environment(), **QUICK_HEALTH_CHECKS})
        yield Store(f"s3://{s3.new_bucket()}/store")


def test_hosts_have_names_addresses_and_disks_of_their_own(hosts: SeparatedHosts) -> None:
    for host in hosts.hosts:
        assert host.run(["hostname"]).stdout == f"{host.name}\n"
        address = host.run(["python", "-c", "import socket; print(socket.gethostbyname(socket.gethostname()))"]).stdout
        assert address == f"{host.address}\n" and address.startswith("10.77.")
    for directory in ("/tmp", "/var/tmp", "/dev/shm", str(Path.home()), str(CHECKOUT)):
        hosts[2].run(["sh", "-c", f"echo secret > {directory}/written-on-host2"])
        assert not Path(directory, "written-on-host2").exists()
        for other in (hosts[1], hosts[3]):
            assert "written-on-host2" not in other.run(["ls", "-A", directory]).stdout
    assert hosts.driver.run(["cat", "README.md" if (CHECKOUT / "README.md").exists() else "pyproject.toml"]).stdout
    assert hosts[3].run(["ls", "-A", str(CHECKOUT)]).stdout.split() == [".venv"]


def test_hosts_see_only_their_own_processes(hosts: SeparatedHosts) -> None:
    sleeper = hosts[2].start(["sleep", "600.25"], log="sleep")
    wait_for("the sleeper", lambda: "sleep 600.25" in hosts[2].processes().values(), 10)
    assert "600.25" in hosts[2].run(["ps", "ax"]).stdout and "600.25" not in hosts[3].run(["ps", "ax"]).stdout
    hosts[2].kill_processes(r"^sleep 600\.25$")
    assert sleeper.wait(10) == -9 and "sleep 600.25" not in hosts[2].processes().values()


def test_a_failing_command_says_what_it_printed(hosts: SeparatedHosts) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        hosts[2].run(["python", "-c", "import cluster.storage"])
    assert caught.value.returncode == 1 and "No module named 'cluster" in caught.value.__notes__[0]


def test_two_worlds_do_not_meet(hosts: SeparatedHosts, tmp_path: Path) -> None:
    connect = "import socket, sys; socket.create_connection((sys.argv[1], 6379), timeout=1)"
    with SeparatedHosts(1, tmp_path) as other:
        assert other.driver.address != hosts.driver.address
        with pytest.raises(subprocess.CalledProcessError) as caught:
            other.driver.run(["python", "-c", connect, hosts.driver.address])
        assert "unreachable" in caught.value.stderr
    assert other.driver.init_pid not in _pids()


ONE_WORLD = """
import sys, time
from pathlib import Path
from tests.world.hosts import SeparatedHosts
with SeparatedHosts(2, Path(sys.argv[1])) as hosts:
    hosts[2].start(["sleep", "600"], log="sleep")
    print(hosts.gateway_address, *(host.init_pid for host in hosts.hosts), *hosts[2].processes(), flush=True)
    time.sleep(600)
"""


def test_nothing_is_left_when_the_tests_are_killed(tmp_path: Path) -> None:
    program = [sys.executable, "-c", ONE_WORLD, str(tmp_path)]
    world = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    try:
        assert world.stdout is not None
        gateway, *words = world.stdout.readline().split()
        pids = {int(word) for word in words}
        assert pids <= _pids() and gateway in _addresses()
    finally:
        kill_process(world)
    wait_for("the hosts' processes end", lambda: not pids & _pids(), 10)
    wait_for("their wire vanishes", lambda: gateway not in _addresses(), 10)


def test_tasks_run_on_every_host_and_share_nothing_but_s3(hosts: SeparatedHosts, store: Store) -> None:
    group = Group(store.root, store.path("scratch"), ranks=3, placement="SPREAD")
    hosts.driver.run(["python", "-m", "tests.cluster.on_hosts", "look", json.dumps(asdict(group))])
    assert store.names("seen") == ["host1.json", "host2.json", "host3.json"]
    for host in hosts.hosts:
        seen = store.read_json(f"seen/{host.name}.json")
        assert seen["address"] == host.address
        assert ("artifacts" in seen["checkout"]) == (host is hosts.driver)
        assert ("tests" in seen["checkout"]) == (host is hosts.driver)


def test_a_group_over_all_hosts_survives_the_loss_of_one(hosts: SeparatedHosts, store: Store) -> None:
    """gloo reduces over three hosts; after one is lost without a word the group starts again on the other two."""
    group = Group(store.root, store.path("scratch"), ranks=3, placement="SPREAD")
    driver = hosts.driver.start(["python", "-m", "tests.cluster.on_hosts", "train", json.dumps(asdict(group))], "train")
    first = _started(store, 0, driver, hosts)
    assert sorted(rank["host"] for rank in first) == ["host1", "host2", "host3"]
    assert [rank["sum"] for rank in first] == [111.0] * 3
    assert all("/runtime_resources/working_dir_files/" in rank["code"] for rank in first)
    hosts[3].kill()
    second = _started(store, 1, driver, hosts)
    assert {rank["host"] for rank in second} == {"host1", "host2"} and [rank["sum"] for rank in second] == [111.0] * 3
    store.write("stop", b"")
    assert driver.wait(60) == 0, hosts.driver.log_path("train").read_text()[-4000:]
    hosts.replace(3)
    hosts.wait_for_nodes(3)


def _started(
    store: Store, attempt: int, driver: subprocess.Popen[str], hosts: SeparatedHosts
) -> list[dict[str, object]]:
    def all_ranks_are_there() -> bool:
        assert driver.poll() is None, hosts.driver.log_path("train").read_text()[-4000:]
        return len(store.names("started", str(attempt))) == 3

    wait_for(f"three ranks in attempt {attempt}", all_ranks_are_there, GROUP_START_S)
    return [store.read_json("started", str(attempt), f"{rank}.json") for rank in range(3)]


def _pids() -> set[int]:
    return {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()}


def _addresses() -> list[str]:
    return subprocess.check_output(["ip", "-brief", "address"], text=True).replace("/", " ").split()
