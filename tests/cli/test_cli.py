"""The command line's manners: help, exit codes, JSON alone on stdout, and verbs that look without changing anything."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.artifacts import artifact_directory, attempt
from cluster.lease import acquire
from cluster.storage import Store
from jobs.cli import app
from tests.world.command import acclimate, acclimate_process
from tests.world.toy_run import ToyRun, write_toy_run

VERBS = (
    "plan", "run", "submit", "status", "logs", "ls", "stop", "eval", "serve", "merge", "lineage", "gc", "schema", "doctor",
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
    assert _json("ls", "--store", f"{store.root}/empty", "--json")["artifacts"] == []


def test_lineage_as_json_and_as_a_tree(store: Store) -> None:
    document = _json("lineage", "cpt", "--store", store.root, "--json")
    assert document["artifact"] == f"cpt-{KEYS['cpt']}"
    assert {record["name"] for record in document["records"].values()} == {"cpt", "base", "papers"}
    tree = acclimate("lineage", "cpt", "--store", store.root)
    for part in ("cpt-cccc", "model-aaaa", "papers.jsonl", "2.0 KiB", "CC0-1.0"):
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
    assert "add --yes" in table.stderr and "add --yes" not in table.stdout
    assert _files(store) == before
    assert _json("gc", "--store", store.root, "--json", "--yes")["removed"] is True
    assert before - _files(store) == {f"{cpt}/000001/model/half", f"{cpt}/000002/checkpoints/step-2/weights"}
    assert _json("gc", "--store", store.root, "--json")["leftovers"] == []


def test_gc_leaves_what_somebody_writes(store: Store) -> None:
    directory = artifact_directory(store, "sft", KEYS["half"])
    directory.write("attempts/000001/model/half", b"123")
    lease = acquire(directory)
    try:
        paths = [item["path"] for item in _json("gc", "--store", store.root, "--json")["leftovers"]]
    finally:
        lease.release()
    assert not any("sft" in path for path in paths)
    paths = [item["path"] for item in _json("gc", "--store", store.root, "--json")["leftovers"]]
    assert f"artifacts/sft-{KEYS['half']}/attempts/000001" in paths


def test_the_schema_describes_what_the_config_may_hold() -> None:
    document = _json("schema")
    assert {"name", "seed", "store", "cluster", "stages"} <= set(document["properties"])


def test_colours_are_left_out_where_they_are_not_wanted() -> None:
    """Even for what would be coloured: FORCE_COLOR stands for a terminal. no-color.org speaks of colour, not of bold."""
    assert COLOUR.search(acclimate_process("--help", FORCE_COLOR="1").stdout)
    plain = acclimate_process("--help", FORCE_COLOR="1", NO_COLOR="1").stdout
    assert "lineage" in plain and not COLOUR.search(plain)
