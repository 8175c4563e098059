"""A store that only the driver's host has is refused before the first stage; one that all hosts reach is not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world.hosts import QUICK_HEALTH_CHECKS, SeparatedHosts, why_no_hosts
from tests.world.s3 import s3_server

NO_HOSTS = why_no_hosts()
pytestmark = [pytest.mark.cluster, pytest.mark.skipif(NO_HOSTS is not None, reason=str(NO_HOSTS))]

ASK = """
import sys
from cluster.nodes import StoreNotShared, require_shared_store
from cluster.session import connect
from cluster.storage import Store
from configs.schema.run import Cluster
with connect(Cluster(address="auto")):
    for root in sys.argv[1:]:
        try:
            require_shared_store(Store(root))
            print("seen", Store(root).names())
        except StoreNotShared as error:
            print(error.exit_code, error)
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeparatedHosts]:
    with SeparatedHosts(2, tmp_path_factory.mktemp("hosts")) as two:
        yield two


def test_every_node_must_see_the_store(hosts: SeparatedHosts) -> None:
    with s3_server(hosts.gateway_address) as s3:
        hosts.start_ray({**s3.environment(), **QUICK_HEALTH_CHECKS})
        shared = f"s3://{s3.new_bucket()}/store"
        said = hosts.driver.run(["python", "-c", ASK, "/tmp/only-here", shared]).stdout
    refused, seen = said.strip().rsplit("\n", 1)
    assert refused.startswith("4 1 of 2 nodes do not see the store /tmp/only-here:"), said
    assert f"host2 ({hosts[2].address}): what the driver wrote is not there" in refused
    assert "Set `store` to s3://BUCKET/PREFIX, or to a directory that all nodes mount." in refused
    assert seen == "seen []"


def test_run_refuses_it_before_the_first_stage(hosts: SeparatedHosts, tiny_model: Path) -> None:
    import yaml

    from tests.world.toy_run import toy_run_values

    values = toy_run_values(Path("/tmp/model"), Path("/tmp/documents.jsonl"), "/tmp/only-here")
    values["stages"] = {"papers": values["stages"]["papers"]}
    values["cluster"] = {"address": "auto"}
    text = yaml.safe_dump(values, sort_keys=False)
    write = "import sys; open('/tmp/documents.jsonl', 'w').write('{\"text\": \"a row\"}'); open('/tmp/toy.yaml', 'w').write(sys.argv[1])"
    hosts.driver.run(["python", "-c", write, text])
    program = "import subprocess, sys; d = subprocess.run([sys.executable, '-m', 'jobs.cli', 'run', '/tmp/toy.yaml', '--yes'], capture_output=True, text=True); print(d.returncode, d.stderr)"
    said = hosts.driver.run(["python", "-c", program]).stdout
    assert said.startswith("4 ") and "Traceback" not in said, said
    assert "1 of 2 nodes do not see the store /tmp/only-here" in said and "papers (corpus" not in said
