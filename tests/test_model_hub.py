"""Models on a hub: what is fetched, what is refused and how, and when the hub is not needed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.artifacts import attempt
from tests.test_models import CHECKOUT, COMMIT, TOKEN, run_python, write_model
from tests.world.command import acclimate_process, require_refused
from tests.world.hub import Hub, Repository, model_hub
from tests.world.toy_run import write_toy_run

HUB_PROGRAM = """
import json, os, sys
from cluster.storage import Store
from configs.schema.run import ModelStage
from jobs.corpus.template import TemplateError
from jobs.model_files import ModelError
from jobs.models import import_model, resolve_source
outcomes = []
for name, source, token in json.loads(sys.argv[2]):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    try:
        resolved = resolve_source(source)
        import_model(ModelStage(stage="model", source=source), resolved, Store(sys.argv[1] + "/" + name), lambda *_: None)
        outcomes.append(resolved.fingerprint)
    except ModelError as error:
        outcomes.append(f"ModelError: {error}")
print(json.dumps(outcomes))
"""


def hub_environment(endpoint: str, home: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "home"), "HF_HUB_OFFLINE": "0"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    directory = write_model(tmp_path_factory.mktemp("hub") / "model")
    (directory / "LICENSE").write_text("terms " * 1000)
    repositories = {
        "org/open": Repository(directory, COMMIT),
        "org/private": Repository(directory, COMMIT, token=TOKEN),
        "org/gated": Repository(directory, COMMIT, gated=True),
        "org/down": Repository(directory, COMMIT, status=503),
        "org/altered": Repository(directory, COMMIT, announced_sha256={"LICENSE": "0" * 64}),
    }
    with model_hub(repositories) as hub:
        yield hub


def test_hub_models(hub: Hub, tmp_path: Path):
    tries = [
        ("open", f"hf:org/open@{COMMIT}", None),
        ("private", f"hf:org/private@{COMMIT}", TOKEN),
        ("no-token", f"hf:org/private@{COMMIT}", None),
        ("wrong-token", f"hf:org/private@{COMMIT}", "hf_another"),
        ("branch", "hf:org/open@main", None),
        ("no-revision", "hf:org/open", None),
        ("unknown-commit", f"hf:org/open@{COMMIT[::-1]}", None),
        ("altered", f"hf:org/altered@{COMMIT}", None),
        ("gated", f"hf:org/gated@{COMMIT}", TOKEN),
        ("down", f"hf:org/down@{COMMIT}", None),
        ("nobody", f"hf:org/nobody@{COMMIT}", None),
    ]
    answer = run_python(HUB_PROGRAM, [str(tmp_path), json.dumps(tries)], hub_environment(hub.url, tmp_path))
    outcomes = dict(zip((name for name, *_ in tries), json.loads(answer), strict=True))
    assert outcomes["open"] == outcomes["private"] == COMMIT
    origin = hub.repositories["org/open"].directory
    for name in ("open", "private"):
        arrived = tmp_path / name / "model"
        assert {path.name for path in arrived.iterdir()} == {path.name for path in origin.iterdir()} - {"optimizer.pt"}
        assert all(path.read_bytes() == (origin / path.name).read_bytes() for path in arrived.iterdir())
    assert "HF_TOKEN is not set" in outcomes["no-token"]
    assert "may not read it" in outcomes["wrong-token"]
    for name in ("branch", "no-revision"):
        assert f"hf:org/open@{COMMIT}" in outcomes[name], outcomes[name]
    assert "no revision" in outcomes["unknown-commit"]
    assert "sha256" in outcomes["altered"]
    assert "is gated: accept its terms" in outcomes["gated"] and not (tmp_path / "gated").exists()
    assert "cannot be asked for org/down" in outcomes["down"] and "503" in outcomes["down"]
    assert "org/nobody is not on" in outcomes["nobody"]
    assert not [path for _, path in hub.requests if path.endswith("optimizer.pt")]


def test_a_hub_that_does_not_answer(tmp_path: Path):
    tries = json.dumps([("x", f"hf:org/open@{COMMIT}", None), ("y", "hf:org/open", None), ("z", "hf:nonsense", None)])
    pinned, unpinned, malformed = json.loads(
        run_python(HUB_PROGRAM, [str(tmp_path), tries], hub_environment("http://127.0.0.1:9", tmp_path))
    )
    assert "cannot be asked" in pinned and "HF_ENDPOINT" in pinned
    assert "40 hexadecimal digits" in unpinned
    assert "hf:ORG/NAME@COMMIT" in malformed


def test_a_pinned_model_that_was_fetched_needs_no_hub(hub: Hub, tiny_model: Path, tmp_path: Path):
    """Plan, then finish the model stage by hand, then plan and check again with the hub gone: only the commit counts."""
    toy = write_toy_run(tmp_path / "toy", tiny_model, str(tmp_path / "store"), without=("evaluation", "report"))
    arguments = ["plan", str(toy.config), f"stages.base.source=hf:org/tiny@{COMMIT}", "--json"]
    with model_hub({"org/tiny": Repository(tiny_model, COMMIT)}) as present:
        before = acclimate_process(*arguments, **hub_environment(present.url, tmp_path))
        assert before.code == 0, before.stderr
        assert present.requests
    gone = hub_environment("http://127.0.0.1:9", tmp_path)
    require_refused(acclimate_process(*arguments, **gone), 2, "cannot be asked for org/tiny", "HF_ENDPOINT")
    base = json.loads(before.stdout)["stages"][0]
    settings = {"trust_remote_code": False}
    with attempt(toy.store, "model", base["key"]) as own:
        for path in tiny_model.iterdir():
            own.content.write(f"model/{path.name}", path.read_bytes())
        own.content.write("model/chat_template.jinja", (CHECKOUT / "jobs/corpus/instruction.jinja").read_bytes())
        own.commit({"name": "base", "parents": {}, "licences": [], "config": {}, "settings": settings})
    after = acclimate_process(*arguments, **gone)
    assert after.code == 0, after.stderr
    assert json.loads(after.stdout)["stages"][0]["state"] == "done"
