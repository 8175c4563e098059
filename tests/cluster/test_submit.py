"""Jobs on a real head with a token: ship, follow, stop so that a checkpoint can be written, and keep secrets out."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ray.job_submission import JobSubmissionClient

from cluster import submit
from cluster.checkout import CheckoutTooLarge, shipped_files
from cluster.session import ClusterUnreachable, versions
from cluster.submit import NotADashboard, NotSubmittable, VersionsDiffer, require_same_versions, require_submittable
from configs.schema.run import Run
from tests.cluster.head import TOKEN, Head, started_head
from tests.world.conditions import wait_for
from tests.world.free_port import free_port

SECRET = "wJalr-this-must-not-travel"

TOY_RUN = {
    "name": "toy",
    "store": "s3://bucket/runs",
    "stages": {"base": {"stage": "model", "source": "s3://bucket/model"}},
}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with started_head(tmp_path_factory.mktemp("home"), {"AWS_SECRET_ACCESS_KEY": SECRET}) as head:
        yield head


@pytest.mark.cluster
def test_a_job_is_shipped_followed_and_found_succeeded(head: Head, tmp_path: Path) -> None:
    (tmp_path / "say.py").write_text("import time\nfor i in range(4): print('line', i); time.sleep(0.5)\n")
    job = head.submit("python say.py", tmp_path)
    followed = head.acclimate("logs", "-f", job, "--address", head.dashboard)
    assert followed.returncode == 0, followed.stderr
    assert [line for line in followed.stdout.splitlines() if line.startswith("line")] == [f"line {i}" for i in range(4)]
    status = head.acclimate("status", job, "--address", head.dashboard, "--json", "--exit-code")
    assert status.returncode == 0
    assert json.loads(status.stdout)["status"] == "succeeded"


@pytest.mark.cluster
def test_a_failed_job_says_so_by_exit_code(head: Head) -> None:
    job = head.submit("python -c 'raise SystemExit(7)'")
    assert head.acclimate("logs", "-f", job, "--address", head.dashboard).returncode == 1
    status = head.acclimate("status", job, "--address", head.dashboard, "--json", "--exit-code")
    assert status.returncode == 100
    assert json.loads(status.stdout)["driver_exit_code"] == 7


@pytest.mark.cluster
def test_a_stopped_job_has_time_to_write_a_checkpoint(head: Head, tmp_path: Path) -> None:
    """Ray alone kills after 3 s; the checkpoint here takes 6."""
    (tmp_path / "train.py").write_text(
        "import signal, sys, time\n"
        "def stop(number, frame):\n"
        "    time.sleep(6)\n"
        f"    open({str(tmp_path / 'checkpoint')!r}, 'w').write('written')\n"
        "    sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('training')\n"
        "while True: time.sleep(0.1)\n"
    )
    job = head.submit("python train.py", tmp_path)
    wait_for(
        "training", lambda: "training" in head.acclimate("logs", job, "--address", head.dashboard).stdout, timeout_s=60
    )
    running = head.acclimate("status", job, "--address", head.dashboard, "--exit-code")
    assert running.returncode == 101
    stopped_at = time.monotonic()
    assert head.acclimate("stop", job, "--address", head.dashboard).returncode == 0
    wait_for("the checkpoint", (tmp_path / "checkpoint").exists, timeout_s=30)
    assert time.monotonic() - stopped_at > 5
    wait_for(
        "cancelled", lambda: head.acclimate("status", job, "--address", head.dashboard, "--exit-code").returncode == 103,
        timeout_s=30,
    )  # fmt: skip


@pytest.mark.cluster
def test_a_run_is_submitted_with_the_checkout_and_its_secrets_stay_at_home(head: Head, tmp_path: Path) -> None:
    config = tmp_path / "toy.yaml"
    config.write_text(json.dumps(TOY_RUN))
    submitted = head.acclimate("submit", str(config), "--address", head.dashboard, "--json")
    assert submitted.returncode == 0, submitted.stderr
    job = json.loads(submitted.stdout)["job_id"]
    listed = httpx.get(f"{head.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"}).text
    assert job in listed
    assert SECRET not in listed and TOKEN not in listed
    wait_for(
        "an end", lambda: head.acclimate("status", job, "--address", head.dashboard, "--exit-code").returncode != 101,
        timeout_s=120,
    )  # fmt: skip
    # It began with our code and the submitted config, and ended because no S3 is there.
    assert "s3://bucket" in head.acclimate("logs", job, "--address", head.dashboard).stdout


@pytest.mark.cluster
def test_a_driver_joins_the_cluster_and_its_workers_see_the_checkout(head: Head) -> None:
    program = (
        "import sys, ray\n"
        "from cluster.session import connect\n"
        "from configs.schema.run import Cluster\n"
        "with connect(Cluster(address=sys.argv[2])) as session:\n"
        "    @ray.remote\n"
        "    def where():\n"
        "        import cluster.checkout\n"
        "        return str(cluster.checkout.CHECKOUT)\n"
        "    print('at', ray.get(where.remote()), session.started_here)\n"
    )
    [line] = [line for line in head.python(program, head.gcs).stdout.splitlines() if line.startswith("at ")]
    assert "working_dir_files" in line and line.endswith("False")


@pytest.mark.cluster
@pytest.mark.parametrize("verb", [("status", "job-x"), ("logs", "job-x"), ("stop", "job-x")])
def test_a_wrong_token_ends_in_four_and_says_which_variable(head: Head, verb: tuple[str, str]) -> None:
    refused = head.acclimate(*verb, "--address", head.dashboard, token="wrong-token-0123456789-0123456789-00")
    assert refused.returncode == 4
    assert "RAY_AUTH_TOKEN" in refused.stderr and "Traceback" not in refused.stderr


@pytest.mark.cluster
def test_an_unknown_job_is_named(head: Head) -> None:
    assert head.acclimate("status", "job-x", "--address", head.dashboard, "--exit-code").returncode == 102
    unknown = head.acclimate("logs", "job-x", "--address", head.dashboard)
    assert unknown.returncode == 2 and "job-x" in unknown.stderr and "Traceback" not in unknown.stderr


@pytest.mark.cluster
def test_no_head_ends_in_four_within_seconds(head: Head) -> None:
    silent = head.acclimate("status", "job-x", "--address", f"http://127.0.0.1:{free_port()}")
    assert silent.returncode == 4 and "Traceback" not in silent.stderr


def test_a_checkout_with_data_is_refused_and_the_largest_files_are_named(tmp_path: Path) -> None:
    from cluster.checkout import copy_checkout

    (tmp_path / "code.py").write_text("pass")
    for name, size_mib in (("big.bin", 15), ("bigger.bin", 16)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size_mib * 2**20)
    target = tmp_path / "artifacts" / "copy"
    with pytest.raises(CheckoutTooLarge, match=r"31\.0 MiB(.|\n)*16\.0 MiB  bigger\.bin\n *15\.0 MiB  big\.bin"):
        copy_checkout(target, tmp_path)
    assert not target.exists()


def test_results_tests_and_likely_secrets_stay_at_home(tmp_path: Path) -> None:
    kept = ("configs/credit.yaml", "jobs/a.py", "jobs/id_map.py", "jobs/keys.py")
    for name in (
        *kept, "artifacts/x", "tests/t.py", ".git/config", "a.log", ".env", "deploy/.env.prod", "deploy/prod.env", ".envrc",
        "host.pem", "HOST.PEM", "tls.key", "a.p12", "id_rsa", "id_ed25519.pub", "deploy/id_ecdsa", "credentials", "Credentials.JSON",
        "gcp-credentials-prod.json", "my-service-account.json", "secrets.yaml", ".netrc", ".pypirc", ".aws/config", ".ssh/known_hosts",
        "kubeconfig", ".kube/config",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "link.py").symlink_to("/etc/hostname")
    assert [file.path for file in shipped_files(tmp_path)] == sorted(kept)


def test_the_checkout_itself_is_shippable() -> None:
    from cluster.checkout import require_shippable

    files = shipped_files()
    require_shippable(files)
    assert {"jobs/cli/__init__.py", "cluster/submit.py", "configs/schema/run.py"} <= {file.path for file in files}


def test_other_versions_are_refused_by_name() -> None:
    ours = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0+cpu", "vllm": "0.29.0"}
    require_same_versions(ours, {"python": "3.11.14", "ray": "2.60.0", "torch": "2.13.0+cu130", "vllm": "absent"})
    with pytest.raises(VersionsDiffer, match=r"ray: 2\.60\.0 here, 2\.59\.1 on the cluster"):
        require_same_versions(ours, {**ours, "ray": "2.59.1"})
    with pytest.raises(VersionsDiffer, match="python"):
        require_same_versions(ours, {**ours, "python": "3.12.1"})
    require_same_versions(versions(), versions())


def test_a_run_that_names_places_of_this_host_is_refused() -> None:
    require_submittable(Run.model_validate(TOY_RUN))
    with pytest.raises(NotSubmittable, match=r"store: 'artifacts' is relative"):
        require_submittable(Run.model_validate({**TOY_RUN, "store": "artifacts"}))
    local = {**TOY_RUN, "stages": {"base": {"stage": "model", "source": "artifacts/assets/model"}}}
    with pytest.raises(NotSubmittable, match=r"stages\.base\.source: 'artifacts/assets/model' does not travel"):
        require_submittable(Run.model_validate(local))


class _WithoutAgents(JobSubmissionClient):
    """A dashboard whose nodes' agents never come: Ray's own words. A real head cannot be kept from starting one."""

    def __init__(self) -> None:
        pass

    def get_address(self) -> str:
        return "http://head:8265"

    def submit_job(self, **_: object) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError(
            "Request failed with status code 500: No available agent to submit job, please try again later."
        )


def test_a_cluster_without_job_agents_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "YOUNG_CLUSTER_S", 0.5)
    with pytest.raises(ClusterUnreachable, match=r"http://head:8265 takes no job"):
        submit.submit_command(_WithoutAgents(), "true", "toy", None, {})


@pytest.mark.parametrize("address", ["foo", "127.0.0.1:8265", "http://head", "ray://head:10001"])
def test_an_address_of_no_dashboard_is_blamed_on_its_option(address: str) -> None:
    with pytest.raises(NotADashboard, match=rf"--address '{address}' .*http://HOST:PORT"):
        submit.reach(address)
