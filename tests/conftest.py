"""What every test may use: a tiny model, an S3 server, and a check that nothing keeps running."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.storage import Store
from tests.world.conditions import wait_for
from tests.world.processes import MARK, descendants
from tests.world.s3 import S3Server, s3_server
from tests.world.tiny_model import write_tiny_model

os.environ.update(
    {
        MARK: str(os.getpid()),
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": "offline",
    }
)
for variable in [name for name in os.environ if name.startswith(("AWS_", "ACCLIMATE_STORE", "ACCLIMATE_API_KEY"))]:
    # A test may never touch a real bucket or store, whatever the shell it was started from can reach.
    del os.environ[variable]

ENDING_S = 75
"""Of a killed cluster: an agent that outlived its GCS tries for 60 s to tell it that the raylet has died."""


@pytest.fixture(scope="module", autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Fails a module whose tests left processes behind."""
    before = descendants()
    yield
    left: dict[int, str] = {}

    def all_ended() -> bool:
        nonlocal left
        left = {pid: command for pid, command in descendants().items() if pid not in before}
        return not left

    try:
        wait_for("processes started by these tests end", all_ended, ENDING_S)
    except TimeoutError:
        pytest.fail("left running: " + "; ".join(f"{pid} {command[:120]}" for pid, command in left.items()))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a two-layer model and its tokenizer. Read it, never write to it."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 server for all tests; each takes a bucket of its own."""
    with s3_server() as server:
        yield server


@pytest.fixture
def s3_store(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in a fresh bucket; AWS_* point this process, and what it starts, to the server."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return Store(f"s3://{s3.new_bucket()}/store")
