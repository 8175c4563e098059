"""Data sets on a hub: what is read, what is refused and how, and when the hub is not needed."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_model_hub import hub_environment
from tests.test_models import COMMIT, TOKEN, run_python
from tests.world.hub import Hub, Repository, model_hub

PROGRAM = """
import json, os, sys
from pathlib import Path
from configs.schema.corpus import CorpusStage, Source
from jobs.corpus.inputs import find_inputs
from jobs.corpus.raw import Raw
from jobs.corpus.readers import read_file
from jobs.corpus.schema import DataError
outcomes = []
for path, format, token in json.loads(sys.argv[1]):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    source = Source(path=path, format=format, licence="CC0-1.0")
    try:
        files = find_inputs(CorpusStage(stage="corpus", sources={"docs": source}), Path.cwd())
        rows = [row for file in files for row in read_file(file.location, file.uri, source)]
        outcomes.append([[file.uri, file.size, file.fingerprint] for file in files] + [
            [row.uri, row.text if isinstance(row, Raw) else row.reason] for row in rows])
    except DataError as error:
        outcomes.append(f"DataError: {error}")
print(json.dumps(outcomes))
"""
LARGE = "".join(json.dumps({"text": f"Document {number}."}) + "\n" for number in range(300))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    directory = tmp_path_factory.mktemp("hub") / "data_set"
    (directory / "data").mkdir(parents=True)
    (directory / "README.md").write_text("about the data")
    (directory / "data/small.jsonl.gz").write_bytes(gzip.compress(b'{"text": "small"}\n', mtime=0))
    (directory / "data/large.jsonl").write_text(LARGE)
    (directory / "notes.txt").write_text("a note")
    (directory / "picture.png").write_bytes(b"x")
    repositories = {
        "org/open": Repository(directory, COMMIT),
        "org/private": Repository(directory, COMMIT, token=TOKEN),
        "org/gated": Repository(directory, COMMIT, gated=True),
        "org/large": Repository(directory, COMMIT, announced_sha256={"data/large.jsonl": "0" * 64}),
        "org/small": Repository(directory, COMMIT, announced_sha256={"notes.txt": "0" * 40}),
        "org/down": Repository(directory, COMMIT, status=503),
    }
    with model_hub(repositories) as hub:
        yield hub


def outcomes(tries: list[tuple[str, str, str | None]], endpoint: str, home: Path) -> list:
    return json.loads(run_python(PROGRAM, [json.dumps(tries)], hub_environment(endpoint, home)))


def test_data_sets_on_a_hub(hub: Hub, tmp_path: Path) -> None:
    place = f"hf:org/open@{COMMIT}"
    tries = [
        (place, "auto", None),
        (f"{place}/data", "jsonl", None),
        (f"{place}/data/small*", "auto", None),
        (f"{place}/README.md", "text", None),
        (f"hf:org/private@{COMMIT}/notes.txt", "auto", TOKEN),
        (f"hf:org/private@{COMMIT}/data", "auto", None),
        (f"{place}/nothing", "auto", None),
        ("hf:org/open@main/data", "auto", None),
        ("hf:org/open", "auto", None),
        ("hf:nonsense", "auto", None),
        (f"hf:org/gated@{COMMIT}", "auto", None),
        (f"hf:org/large@{COMMIT}", "auto", None),
        (f"hf:org/small@{COMMIT}", "auto", None),
        (f"hf:org/down@{COMMIT}", "auto", None),
    ]
    found = outcomes(tries, hub.url, tmp_path)
    (
        everything,
        below,
        matching,
        readme,
        private,
        no_token,
        nothing,
        branch,
        bare,
        nonsense,
        gated,
        large,
        small,
        down,
    ) = found
    assert [row[0] for row in everything[:3]] == [
        f"{place}/data/large.jsonl",
        f"{place}/data/small.jsonl.gz",
        f"{place}/notes.txt",
    ]
    assert everything[0][2].startswith("sha256:") and everything[1][2].startswith("git:")
    assert everything[3] == [f"{place}/data/large.jsonl#1", "Document 0."]
    assert everything[-2:] == [[f"{place}/data/small.jsonl.gz#1", "small"], [f"{place}/notes.txt", "a note"]]
    assert len(everything) == 3 + 300 + 2
    assert len(below) == 2 + 300 + 1
    assert matching[1:] == [[f"{place}/data/small.jsonl.gz#1", "small"]]
    assert readme[1:] == [[f"{place}/README.md", "about the data"]]
    assert private[1:] == [[f"hf:org/private@{COMMIT}/notes.txt", "a note"]]
    assert "sources.docs.path: nothing found" in nothing
    for told in (branch, bare):
        assert f"path: hf:org/open@{COMMIT}" in told
    assert "hf:ORG/NAME@COMMIT" in nonsense
    assert "is gated: accept its terms" in gated
    assert "the hub announced 000000000000.." in large and "the hub announced 000000000000.." in small
    assert "cannot be asked for org/down" in down
    assert not [path for _, path in hub.requests if path.endswith("picture.png")]
    del no_token  # the list of a commit is kept, and so is what this host fetched: see below


def test_a_private_data_set_needs_a_token(hub: Hub, tmp_path: Path) -> None:
    (told,) = outcomes([(f"hf:org/private@{COMMIT}/data", "auto", None)], hub.url, tmp_path)
    assert "HF_TOKEN is not set" in told


def test_a_data_set_that_was_read_needs_no_hub(hub: Hub, tmp_path: Path) -> None:
    tries: list[tuple[str, str, str | None]] = [(f"hf:org/open@{COMMIT}/data", "auto", None)]
    (before,) = outcomes(tries, hub.url, tmp_path)
    assert outcomes(tries, "http://127.0.0.1:9", tmp_path) == [before]
    (told,) = outcomes([(f"hf:org/open@{COMMIT[::-1]}", "auto", None)], "http://127.0.0.1:9", tmp_path)
    assert "cannot be asked" in told and "HF_ENDPOINT" in told
