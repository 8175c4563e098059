"""The report: whole, offline, and unmoved by what a model may write."""
# ruff: noqa: RUF001 (the page and the table write a typographic minus)

import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from cluster.artifacts import Artifact
from cluster.storage import Store
from jobs.evaluate.charts import CURVE_HEIGHT, CURVE_WIDTH, Node, bars, curve, histogram, lineage, shares
from jobs.evaluate.page import percent
from jobs.evaluate.report import table, write_report

HOSTILE = '<script>alert("x")</script><img src=http://example.org/x>'


def score(loss: float, perplexity: float, bits_per_byte: float) -> dict[str, Any]:
    return {
        "loss": loss,
        "loss_standard_error": 0.031,
        "perplexity": perplexity,
        "bits_per_byte": bits_per_byte,
        "tokens": 10_200,
        "bytes": 44_000,
        "documents": 40,
    }


def change(loss: float, perplexity: float, bits_per_byte: float) -> dict[str, Any]:
    return {
        "loss": loss,
        "perplexity": perplexity,
        "bits_per_byte": bits_per_byte,
        "loss_difference_standard_error": 0.004,
    }


EVALUATION: dict[str, Any] = {
    "models": ["base", "cpt", "sft"],
    "precision": "bf16",
    "sets": {"pubmed": {"rows": "text"}, "general": {"rows": "text"}, "conclusions": {"rows": "messages"}},
    "scores": {
        "base": {"pubmed": score(3.195, 24.4, 1.05), "general": score(3.01, 20.3, 0.98), "conclusions": score(2.9, 18.2, 1.1)},
        "cpt": {"pubmed": score(3.016, 20.4, 0.99), "general": score(3.02, 20.5, 0.985), "conclusions": score(2.7, 14.9, 1.0)},
        "sft": {"pubmed": score(3.02, 20.5, 0.992), "general": score(3.03, 20.7, 0.987), "conclusions": score(2.3, 10.0, 0.9)},
    },
    "changes": {
        "cpt": {"pubmed": change(-0.056, -0.164, -0.056), "general": change(0.003, 0.01, 0.003), "conclusions": change(-0.07, -0.18, -0.07)},
        "sft": {"pubmed": change(0.001, 0.005, 0.001), "general": change(0.003, 0.01, 0.003), "conclusions": change(-0.148, -0.33, -0.1)},
    },
    "answers": [
        {
            "document_id": number,
            "prompt": [
                {"role": "system", "content": "Background: a study of 240 patients. " * 12},
                {"role": "user", "content": "Write the conclusion from the other sections."},
            ],
            "reference": "The new treatment prolonged survival in patients younger than sixty.",
            "answers": {
                "base": {"text": HOSTILE if number == 0 else "Background: a study of " * 14, "tokens": 128, "ended": False},
                "cpt": {"text": "The treatment was safe & the effect was small.", "tokens": 31, "ended": True},
                "sft": {"text": "Survival was longer with the new treatment.", "tokens": 9, "ended": True},
            },
        }
        for number in range(3)
    ],
}  # fmt: skip


def artifact(store: Store, kind: str, key: str, parents: dict[str, str], number: int, **fields: Any) -> Artifact:
    record = {
        "name": fields.pop("name", kind),
        "parents": parents,
        "finished_at": float(number),
        "content": "attempts/000001",
        "config": {"stage": kind, "optimizer": {"learning_rate": 2e-5, "beta2": 0.95}},
        "counts": {},
        "licences": [],
        "versions": {"torch": "2.13.0", "ray": "2.60.0"},
    } | fields
    return Artifact(store, kind, key.ljust(16, "0"), record)


def demo_artifacts(store: Store) -> list[Artifact]:
    counts = {
        "train": 1763,
        "heldout": 40,
        "documents_by_source": {"pub_med": 1803},
        "documents_by_licence": {"CC-BY-SA-3.0": 1803},
        "quarantined": {"too_short": 12, "duplicate": 3},
    }
    made = [
        artifact(store, "model", "a1", {}, 0, name="base"),
        artifact(store, "corpus", "b2", {}, 1, name="papers", counts=counts, licences=["LicenseRef-NLM"]),
        artifact(store, "shards", "c3", {"corpus": "corpus-b2".ljust(23, "0"), "model": "model-a1".ljust(22, "0")}, 2,
                 name="rows", counts={"tokens": 60_112, "fill": 0.987}),
        artifact(store, "cpt", "d4", {"model": "model-a1".ljust(22, "0"), "shards": "shards-c3".ljust(23, "0")}, 3),
        artifact(store, "sft", "e5", {"model": "cpt-d4".ljust(20, "0"), "shards": "shards-c3".ljust(23, "0")}, 4),
    ]  # fmt: skip
    for trained, start in ((made[3], 3.2), (made[4], 2.8)):
        history = [
            {"step": step, "loss": start * 0.99**step + 0.05 * (step * 7 % 5 - 2) / 2, "learning_rate": 1e-5, "grad_norm": 1.0, "tokens": 1024}
            for step in range(1, 61)
        ]  # fmt: skip
        trained.content.write_json("history.json", history)
    return made


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    store = Store(str(tmp_path_factory.mktemp("store")))
    write_report(EVALUATION, demo_artifacts(store), store)
    return store.read("report.html").decode()


def test_a_hostile_answer_is_text(page: str):
    assert "<script" not in page and "<img" not in page
    assert "&lt;script&gt;alert(&#34;x&#34;)" in page


def test_nothing_is_fetched(page: str):
    shown = page.replace("http://example.org/x", "")
    assert not re.findall(r"https?://|@import|url\(|<link|<iframe", shown)
    assert "default-src 'none'" in page


def test_everything_asked_for_is_there(page: str):
    for said in (
        "24.400",
        "20.400",
        "−16.4 %",
        "1,763",
        "quarantined, too short",
        "documents by source, pub_med<",
        "documents by licence, CC-BY-SA-3.0<",
        "LicenseRef-NLM",
        "cut after 128 tokens",
        "2.13.0",
        "60,112",
    ):
        assert said in page, said
    for drawing in (
        "training loss of cpt",
        "training loss of sft",
        "lineage of the evaluated models",
        "perplexity on pubmed",
    ):
        assert f'aria-label="{drawing}"' in page, drawing
    headline = page.split('class="headline"')[1]
    assert "better" in headline and percent(20.5 / 24.4 - 1) in headline


def test_a_curve_stays_in_its_frame():
    drawing = ElementTree.fromstring(curve([1, 2, 3], [5.0, 1.0, 3.0], "loss"))
    points = [tuple(map(float, point.split(","))) for point in drawing.find("polyline").get("points").split()]  # type: ignore[union-attr]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert all(0 <= x <= CURVE_WIDTH and 0 <= y <= CURVE_HEIGHT for x, y in points)
    assert points[1][1] > points[2][1] > points[0][1], "smaller losses are drawn lower"
    assert points[2][1] == pytest.approx((points[0][1] + points[1][1]) / 2, abs=0.1)
    assert "nan" not in curve([1], [2.0], "one point")


def test_bars_are_as_long_as_their_values():
    drawing = ElementTree.fromstring(bars({"a & b": 10.0, "c": 5.0}, "x"))
    lengths = [float(bar.get("width", "")) for bar in drawing.findall("rect") if "bar" in str(bar.get("class"))]
    assert lengths[0] == pytest.approx(2 * lengths[1])


def test_shares_are_of_all_and_a_histogram_of_its_highest_column():
    drawing = ElementTree.fromstring(shares({"<a>": 30, "b": 10}, "x"))
    assert [text.text for text in drawing.findall("text")] == ["<a>", "30, 75.0 %", "b", "10, 25.0 %"]
    lengths = [float(bar.get("width", "")) for bar in drawing.findall("rect") if bar.get("class") == "bar"]
    assert lengths[0] == pytest.approx(3 * lengths[1])
    columns = ElementTree.fromstring(histogram({"1": (5, "five"), "2": (0, "none"), "4": (10, "<ten>")}, "x"))
    boxes = [box for box in columns.findall("rect") if box.get("class") == "stressed"]
    heights = [float(box.get("height", "")) for box in boxes]
    assert heights[2] == pytest.approx(2 * heights[0]) and heights[1] == 0
    assert [title.text for title in columns.iter("title")] == ["five", "none", "<ten>"]
    assert all(0 <= float(box.get("x", "")) <= CURVE_WIDTH - float(box.get("width", "")) for box in boxes)


def test_lineage_runs_from_left_to_right_and_leaves_out_unknown_parents():
    nodes = [Node("m", "m", "", ()), Node("s", "s", "", ("m",)), Node("t", "t", "", ("m", "s", "gone"))]
    drawing = ElementTree.fromstring(lineage(nodes))
    left = [float(box.get("x", "")) for box in drawing.findall("rect")]
    assert left[0] < left[1] < left[2]
    assert len(drawing.findall("path")) == 3


def test_the_table_shows_changes_against_the_column_before():
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table(EVALUATION))
    text = console.export_text()
    (row,) = [line for line in text.splitlines() if "pubmed" in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "pubmed",
        "perplexity",
        "24.400",
        "20.400 (−16.4 %)",
        "20.500 (+0.5 %)",
    ]
    assert "loss, nats per token" in text


def test_percent_writes_its_sign():
    assert (percent(-0.0834), percent(0.005), percent(0.0)) == ("−8.3 %", "+0.5 %", "+0.0 %")


if __name__ == "__main__":  # python -m tests.evaluate.test_report DIR: the page to look at
    import sys

    shown = Store(str(Path(sys.argv[1]).absolute()))
    write_report(EVALUATION, demo_artifacts(shown), shown)
