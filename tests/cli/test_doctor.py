"""The doctor finds what is wrong, says how to mend it, and fails by exit code only for what must be mended."""

import json
import socket
from pathlib import Path

import ray
import torch
from typer.testing import CliRunner

from jobs.cli import app
from jobs.cli.doctor import Finding, free_port, packages, python_version, ray_cluster, storage
from tests.world.free_port import free_port as unused_port


def _level(finding: Finding) -> str:
    return finding.level


def test_python_versions() -> None:
    assert [_level(python_version(version)) for version in ((3, 10, 4), (3, 11, 0), (3, 12, 1))] == [
        "fail",
        "ok",
        "warn",
    ]


def test_packages_that_decide_fail_and_others_warn(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"# comment == x\nray=={ray.__version__}\ntorch=={torch.__version__.partition('+')[0]}\n")
    assert [(each.level, each.message) for each in packages(lock)] == [("ok", "all 2 as in lock.txt")]
    lock.write_text("ray==2.0.0\npytest==0.1\n")
    [finding] = packages(lock)
    assert finding.level == "fail" and f"ray {ray.__version__} (lock: 2.0.0)" in finding.message and finding.mend
    lock.write_text("pytest==0.1\nno-such-package==1\n")
    [finding] = packages(lock)
    assert finding.level == "warn" and "no-such-package absent (lock: 1)" in finding.message


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    assert storage(str(tmp_path / "new")).level == "ok"
    assert storage(str(tmp_path / "file" / "store")).level == "fail"


def test_a_cluster_that_does_not_answer() -> None:
    finding = ray_cluster(f"http://127.0.0.1:{unused_port()}")
    assert finding.level == "fail" and "Nothing answers" in finding.message


def test_a_port_in_use_is_a_warning() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert free_port(taken.getsockname()[1]).level == "warn"


def test_the_report_is_json_and_the_exit_code_says_what_fails(tmp_path: Path) -> None:
    arguments = ["doctor", "--json", "--port", str(unused_port()), "--address", "local"]
    healthy = CliRunner().invoke(app, [*arguments, "--store", str(tmp_path)])
    findings = {finding["name"]: finding for finding in json.loads(healthy.stdout)}
    assert set(findings) >= {"python", "packages", "memory", "disk store", "store", "tcmalloc", "ray", "port"}
    assert healthy.exit_code == int(any(finding["level"] == "fail" for finding in findings.values()))
    (tmp_path / "file").write_text("x")
    broken = CliRunner().invoke(app, [*arguments, "--store", str(tmp_path / "file" / "store")])
    assert broken.exit_code == 1
    assert {finding["name"] for finding in json.loads(broken.stdout) if finding["level"] == "fail"} >= {"store"}
