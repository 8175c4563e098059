"""The command line's manners: help, exit codes, JSON alone on stdout, and verbs that look without changing anything."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.artifacts import artifact_directory, attempt
from cluster.collect import Leftover, remove
from cluster.lease import acquire
from cluster.runs import RunLog
from cluster.storage import Store
from jobs.cli import app
from tests.world.command import acclimate, acclimate_process
from tests.world.conditions import kill_process
from tests.world.toy_run import CHECKOUT, ToyRun, write_toy_run

VERBS = (
    "plan", "run", "submit", "status", "logs", "ls", "stop", "eval", "serve", "merge", "samples", "lineage", "gc", "schema", "doctor",
)  # fmt: skip
KEYS = {name: character * 16 for name, character in (("base", "a"), ("papers", "b"), ("cpt", "c"), ("half", "d"))}
COLOUR = re.compile(r"\x1b\[(?:\d+;)*[39][0-7]m")
"""A terminal's escape sequence for a foreground colour (ECMA-48 SGR 30-37, and 90-97 of xterm)."""


@pytest.fixture
def toy(tiny_model: Path, tmp_path: Path) -> ToyRun:
    return write_toy_run(tmp_path / "toy", tiny_model, str(tmp_path / "store"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A corpus and two models, the second trained from the first in its second attempt; checkpoints are left of it."""
    store = Store(str(tmp_path / "made"))
    _finish(store, "model", "base", {})
    _finish(store, "corpus", "papers", {}, [["papers.jsonl", 2048, "sha256:0123456789abcdef"]])
    directory = artifact_directory(store, "cpt", KEYS["cpt"])
    acquire(directory).release()
    directory.write("attempts/000001/model/half", b"123")
    parents = {"model": f"model-{KEYS['base']}", "corpus": f"corpus-{KEYS['papers']}"}
    _finish(store, "cpt", "cpt", parents)
    directory.write("attempts/000002/checkpoints/step-2/weights", b"12345")
    return store


def _finish(
    store: Store, kind: str, name: str, parents: dict[str, str], inputs: list[list[object]] | None = None
) -> None:
    with attempt(store, kind, KEYS[name]) as own:
        own.content.write("model/config.json", b"{}")
        config = {} if inputs is None else {"inputs": inputs}
        own.commit({"name": name, "parents": parents, "licences": ["CC0-1.0"], "config": config})


def _files(store: Store) -> set[str]:
    return {info.name for info in store.files()}


def _json(*arguments: str) -> Any:
    answer = acclimate(*arguments)
    assert answer.code == 0, answer.stderr
    return json.loads(answer.stdout)


def test_help_of_the_whole_and_of_every_verb() -> None:
    whole = acclimate("--help")
    assert whole.code == 0
    assert {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    } == set(VERBS)
    for verb in VERBS:
        assert re.search(rf"\b{verb}\b", whole.stdout)
        answer = acclimate(verb, "-h")
        assert answer.code == 0 and "Usage:" in answer.stdout and f" {verb} " in answer.stdout and not answer.stderr


def test_help_comes_at_once() -> None:
    """What it may import is held by test_imports; the time is printed, not asserted, on a machine that others use."""
    began = time.monotonic()
    assert acclimate_process("--help").code == 0
    print(f"acclimate --help: {time.monotonic() - began:.2f} s")


@pytest.mark.parametrize(
    "arguments", [("frobnicate",), ("plan",), ("ls", "--no-such-option"), ("serve", "m", "port8000")]
)
def test_wrong_usage_ends_with_2_and_nothing_on_stdout(arguments: tuple[str, ...]) -> None:
    answer = acclimate(*arguments)
    assert answer.code == 2 and answer.stdout == ""
    assert "Usage:" in answer.stderr and "Error" in answer.stderr and "Traceback" not in answer.stderr


def test_plan_as_json_starts_and_writes_nothing(toy: ToyRun) -> None:
    document = _json("plan", str(toy.config), "--json", "stages.cpt.steps=7")
    assert [row["name"] for row in document["stages"]] == list(document["config"]["stages"])
    cpt = next(row for row in document["stages"] if row["name"] == "cpt")
    assert cpt["state"] == "new" and cpt["estimated_tokens"] == 7 * 256
    assert re.fullmatch(r"[0-9a-f]{16}", cpt["key"]) and cpt["parents"]["model"].startswith("model-")
    assert document["store"] == toy.store.root and not Path(toy.store.root).exists()


def test_plan_starts_no_ray(toy: ToyRun) -> None:
    """A Ray that was started would have refused this address or taken seconds; planning does not even look at it."""
    answer = acclimate_process("plan", str(toy.config), "cluster.address=127.0.0.1:1", RAY_ADDRESS="127.0.0.1:1")
    assert answer.code == 0 and answer.stderr == ""
    assert "computed" in answer.stdout and not Path(toy.store.root).exists()


def test_ls_as_json(store: Store) -> None:
    document = _json("ls", "--store", store.root, "--json")
    assert [(record["name"], record["kind"]) for record in document["artifacts"]] == [
        ("base", "model"), ("papers", "corpus"), ("cpt", "cpt"),
    ]  # fmt: skip
    assert document["runs"] == [] and document["artifacts"][2]["path"].endswith("attempts/000002")
    Path(store.root, "empty").mkdir()
    assert _json("ls", "--store", f"{store.root}/empty", "--json")["artifacts"] == []


def test_lineage_as_json_and_as_a_tree(store: Store) -> None:
    document = _json("lineage", "cpt", "--store", store.root, "--json")
    assert document["artifact"] == f"cpt-{KEYS['cpt']}"
    assert {record["name"] for record in document["records"].values()} == {"cpt", "base", "papers"}
    tree = acclimate("lineage", "cpt", "--store", store.root)
    for part in ("cpt-cccc", "model-aaaa", "papers.jsonl", "2.0 KiB", "CC0-1.0", "sha256:0123456789ab"):
        assert part in tree.stdout
    unknown = acclimate("lineage", "nobody", "--store", store.root)
    assert unknown.code == 2 and unknown.stdout == "" and "base (aaaa" in unknown.stderr


def test_gc_shows_leftovers_and_removes_nothing_else(store: Store) -> None:
    before = _files(store)
    cpt = f"artifacts/cpt-{KEYS['cpt']}/attempts"
    shown = _json("gc", "--store", store.root, "--json")
    assert shown["removed"] is False
    assert {item["path"]: item["bytes"] for item in shown["leftovers"]} == {
        f"{cpt}/000001": 3, f"{cpt}/000002/checkpoints": 5,
    }  # fmt: skip
    table = acclimate("gc", "--store", store.root)
    assert "8 B in 2 leftovers; --yes removes them" in table.stderr and "--yes" not in table.stdout
    assert _files(store) == before
    assert _json("gc", "--store", store.root, "--json", "--yes")["removed"] is True
    assert before - _files(store) == {f"{cpt}/000001/model/half", f"{cpt}/000002/checkpoints/step-2/weights"}
    assert _json("gc", "--store", store.root, "--json")["leftovers"] == []


def _unfinished(store: Store, kind: str, key: str) -> str:
    """An attempt that ended after its first checkpoint; its path."""
    directory = artifact_directory(store, kind, key)
    acquire(directory).release()
    directory.write("attempts/000001/checkpoints/step-000002/checkpoint.json", b"{}")
    return f"artifacts/{kind}-{key}/attempts/000001"


def test_gc_keeps_checkpoints_that_a_run_can_go_on_from(store: Store) -> None:
    path = _unfinished(store, "sft", KEYS["half"])
    led_nowhere = f"artifacts/sft-{KEYS['half']}/attempts/000002"
    store.write(f"{led_nowhere}/model/half", b"123")
    shown = _json("gc", "--store", store.root, "--json", "--yes")
    assert [item["path"] for item in shown["kept"]] == [path]
    assert led_nowhere in [item["path"] for item in shown["leftovers"]]
    assert store.names(path) == ["checkpoints"] and not store.names(led_nowhere)
    assert "kept that unfinished runs can go on from" in acclimate("gc", "--store", store.root).stderr


def test_gc_of_unfinished_work_keeps_what_a_configs_newest_run_asks_for(store: Store) -> None:
    abandoned, old, newest = (_unfinished(store, "sft", character * 16) for character in "123")
    for path in (old, newest):
        RunLog(store, "toy", {}, {"sft": path.split("/")[1]}).finish("cancelled")
        time.sleep(0.01)  # the newest run is found by its time
    shown = _json("gc", "--store", store.root, "--json", "--unfinished", "--yes")
    assert [item["path"] for item in shown["kept"]] == [newest]
    assert not store.names(abandoned) and not store.names(old) and store.names(newest)
    before = _files(store)
    assert _json("gc", "--store", store.root, "--json", "--unfinished", "--yes")["leftovers"] == []
    assert _files(store) == before, "finished artifacts and their records stay"


def test_gc_takes_a_run_that_does_not_say_what_it_planned_to_want_anything(store: Store) -> None:
    path = _unfinished(store, "sft", KEYS["half"])
    status = {"run_id": "old", "name": "old", "status": "failed", "created_at": 0.0, "seen_at": 0.0}
    store.write_json("runs/old/status.json", status)
    shown = _json("gc", "--store", store.root, "--json", "--unfinished", "--yes")
    assert [item["path"] for item in shown["kept"]] == [path] and store.names(path)


def test_status_and_logs_read_well(store: Store) -> None:
    log = RunLog(store, "toy", {}, {"base": "model-1", "cpt": "cpt-2"})
    log.event("cpt step 3", data={"stage": "cpt", "step": 3, "loss": 2.5})
    log.artifact("base", "model-1")
    log.artifact("cpt", "cpt-2")
    log.finish("succeeded")
    lines = acclimate("status", log.run_id, "--store", store.root).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "run_id", "name", "status", "created_at", "seen_at", "finished_at", "artifacts", "cpt-2",
    ]  # fmt: skip
    assert acclimate("logs", log.run_id, "--store", store.root).stdout.split(maxsplit=1)[1] == "cpt step 3  loss 2.5\n"


WRITER = """
import sys, time
from cluster.artifacts import attempt
from cluster.storage import Store
with attempt(Store(sys.argv[1]), "sft", sys.argv[2]) as own:
    own.content.write("checkpoints/step-000001/checkpoint.json", b"{}")
    own.content.write("model/half", b"123")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_gc_takes_nothing_from_under_a_live_writer(store: Store) -> None:
    """The writer is another process; when it is killed, its checkpoint stays and the rest of its work may go."""
    _unfinished(store, "sft", KEYS["half"])
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, store.root, KEYS["half"]], cwd=CHECKOUT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        before = {name for name in _files(store) if "/sft-" in name and "/attempts/" in name}
        shown = _json("gc", "--store", store.root, "--json", "--unfinished", "--yes")
        assert not any("/sft-" in item["path"] for item in shown["leftovers"] + shown["kept"])
        assert before <= _files(store)
        left = Leftover(f"artifacts/sft-{KEYS['half']}/attempts/000001", 2, "found before the writer began")
        assert not remove(store, left) and before <= _files(store)
    finally:
        kill_process(process)
    shown = _json("gc", "--store", store.root, "--json")
    assert len(shown["kept"]) == 2 and before <= _files(store)
    shown = _json("gc", "--store", store.root, "--json", "--unfinished", "--yes")
    assert len(shown["leftovers"]) == 2 and not before & _files(store)


def test_the_schema_describes_what_the_config_may_hold() -> None:
    document = _json("schema")
    assert {"name", "seed", "store", "cluster", "stages"} <= set(document["properties"])


def test_colours_are_left_out_where_they_are_not_wanted() -> None:
    """Even for what would be coloured: FORCE_COLOR stands for a terminal. no-color.org speaks of colour, not of bold."""
    assert COLOUR.search(acclimate_process("--help", FORCE_COLOR="1").stdout)
    plain = acclimate_process("--help", FORCE_COLOR="1", NO_COLOR="1").stdout
    assert "lineage" in plain and not COLOUR.search(plain)


def test_a_reader_that_has_read_enough_is_no_error(tmp_path: Path) -> None:
    """`acclimate ls | head -1`"""
    store = Store(str(tmp_path))
    for number in range(400):
        status = {"run_id": f"run-{number}", "status": "failed", "stage": "x" * 300, "created_at": 0.0, "seen_at": 0.0}
        store.write_json(f"runs/run-{number}/status.json", status)
    # With more to say than a pipe holds, and with little, which is written at the end to nobody.
    for arguments, begins in ((["ls"], True), (["ls", "--json"], True), (["schema"], True), (["schema"], False)):
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *arguments, *(["--store", store.root] if arguments[0] == "ls" else [])],
            cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None and process.stderr is not None
            if begins:
                process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == "" and process.wait(30) in (0, 141)
        finally:
            kill_process(process)
