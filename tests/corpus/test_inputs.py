import hashlib
import os
from pathlib import Path

import pytest

from configs.schema.corpus import CorpusStage, Source
from jobs.corpus.inputs import estimate_tokens, files_not_read, find_inputs
from jobs.corpus.schema import DataError


def stage_of(**sources: Source) -> CorpusStage:
    return CorpusStage(stage="corpus", sources=sources)


def test_inputs_are_found_sorted_and_fingerprinted(tmp_path: Path):
    for name in ("docs/b.txt", "docs/a.txt", "docs/deep/c.md", "docs/skipped.bin", "rows/x.jsonl", "odd.data"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    stage = stage_of(
        rows=Source(path="rows/*", format="jsonl", licence="MIT"),
        docs=Source(path="docs", format="text", licence="CC0-1.0"),
        odd=Source(path=str(tmp_path / "odd.data"), format="text", licence="CC0-1.0"),
    )
    inputs = find_inputs(stage, tmp_path)
    assert [(file.source, file.uri) for file in inputs] == [
        ("rows", "rows/x.jsonl"), ("docs", "docs/a.txt"), ("docs", "docs/b.txt"), ("docs", "docs/deep/c.md"), ("odd", "odd.data"),
    ]  # fmt: skip
    assert inputs[0].fingerprint == "sha256:" + hashlib.sha256(b"rows/x.jsonl").hexdigest()
    assert (inputs[0].size, inputs[0].location) == (12, str(tmp_path / "rows/x.jsonl"))
    assert estimate_tokens(stage, inputs) == {"rows": 2, "docs": 2 + 2 + 3, "odd": 1}


def test_a_source_that_matches_nothing_is_named(tmp_path: Path):
    stage = stage_of(papers=Source(path="papers", format="pubmed", licence="MIT"))
    with pytest.raises(
        DataError, match=r"sources\.papers\.path: nothing found at papers .*\.xml \(of each also \.gz and \.zst\)"
    ):
        find_inputs(stage, tmp_path)


def test_links_are_followed_once_and_suffixes_may_be_in_capitals(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/B.JSONL.GZ").write_text("b")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.Jsonl").write_text("a")
    (tmp_path / "docs/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "docs/twice").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "docs/round").symlink_to(tmp_path / "docs")
    stage = stage_of(docs=Source(path="docs", format="jsonl", licence="MIT"))
    assert [file.uri for file in find_inputs(stage, tmp_path)] == ["docs/a.Jsonl", "docs/linked/B.JSONL.GZ"]


def test_what_is_there_instead_of_a_file_is_said(tmp_path: Path):
    (tmp_path / "dangling.jsonl").symlink_to("/nowhere/x.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "scans").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("a.PDF", "b.pdf", "README"):
        (tmp_path / "scans" / name).write_text("x")
    said = {
        "dangling.jsonl": "a link to /nowhere/x.jsonl, which does not exist",
        "pipe.jsonl": "a pipe, a socket or a device, not a file",
        "scans": r"other files \(2 with .pdf, 1 with no suffix\)",
        "empty": "the directory has no files",
    }
    for path, words in said.items():
        with pytest.raises(DataError, match=rf"sources\.docs\.path: nothing found at {path} .*{words}"):
            find_inputs(stage_of(docs=Source(path=path, format="jsonl", licence="MIT")), tmp_path)


def test_auto_takes_every_known_format_packed_or_not(tmp_path: Path):
    names = [
        "a.JSONL.zst",
        "b.md",
        "c.html",
        "d.pdf",
        "e.docx",
        "f.nxml.gz",
        "g.parquet",
        "h.txt",
        "i.bin",
        "j.gz",
        "k.jpg",
    ]
    for name in names:
        (tmp_path / name).write_text("x")
    (tmp_path / "l.txt").mkdir()
    (tmp_path / "l.txt/m.txt").write_text("in a directory named like a file")
    found = find_inputs(stage_of(docs=Source(path=".", licence="MIT")), tmp_path)
    assert [file.uri for file in found] == [*names[:8], "l.txt/m.txt"]
    pages = find_inputs(stage_of(docs=Source(path=".", format="html", licence="MIT")), tmp_path)
    assert [file.uri for file in pages] == ["c.html"]


def test_when_a_file_was_changed_is_known_and_makes_no_other_input(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("x")
    stage = stage_of(docs=Source(path="a.txt", licence="MIT"))
    (first,) = find_inputs(stage, tmp_path)
    os.utime(path, (0, 0))
    (second,) = find_inputs(stage, tmp_path)
    assert second.modified_at == "1970-01-01T00:00:00+00:00" != first.modified_at
    assert first == second


def test_what_a_directory_has_beside_is_said_and_broken_links_are_refused(tmp_path: Path) -> None:
    for name in ("a.txt", "b.DOC", "c.doc", "d.jsonl.bz2", "README"):
        (tmp_path / name).write_text("A text.")
    stage = stage_of(docs=Source(path=str(tmp_path), licence="MIT"))
    assert files_not_read(stage.sources["docs"], tmp_path) == "2 with .doc, 1 with no suffix, 1 with .bz2"
    (tmp_path / "unread.bin").symlink_to("/nowhere/x")
    assert len(find_inputs(stage, tmp_path)) == 1
    (tmp_path / "gone.txt").symlink_to("/nowhere/x.txt")
    with pytest.raises(DataError, match=r"gone\.txt is a link to /nowhere/x\.txt, which does not exist; mend"):
        find_inputs(stage, tmp_path)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/bad\xff.txt")).write_text("A text.")
    with pytest.raises(DataError, match=r"sources\.docs\.path: the name of 'bad\\udcff\.txt' is not UTF-8"):
        find_inputs(stage_of(docs=Source(path=".", licence="MIT")), tmp_path)


def test_a_file_has_one_licence(tmp_path: Path) -> None:
    """Through a link as well; by equal terms two sources may have one file."""
    (tmp_path / "all/hr").mkdir(parents=True)
    (tmp_path / "all/hr/a.txt").write_text("A text.")
    (tmp_path / "staff").symlink_to(tmp_path / "all/hr")
    staff = Source(path="staff", licence="LicenseRef-HR", confidentiality="restricted")
    with pytest.raises(DataError, match=r"sources\.all and sources\.staff both have all/hr/a\.txt, with different"):
        find_inputs(stage_of(staff=staff, all=Source(path="all", licence="MIT")), tmp_path)
    assert len(find_inputs(stage_of(staff=staff, all=staff.model_copy(update={"path": "all"})), tmp_path)) == 2
