"""The first 200 files of `make fuzz`, and that the fuzz test sees what it looks for."""

from pathlib import Path

import pytest

from jobs.corpus import readers
from jobs.corpus.raw import Rejected
from tests.corpus import fuzz_readers
from tests.corpus.broken_files import HEAVY_EVERY, Case, case
from tests.corpus.fuzz_readers import Finding, read_case

FILES = 200


def test_broken_files_end_in_rows_and_reasons(tmp_path: Path) -> None:
    for seed in range(1, FILES + 1):
        if seed % HEAVY_EVERY:  # the large ones need a process of their own
            read_case(case(seed), tmp_path)


def test_a_seed_makes_the_same_file_again() -> None:
    assert [case(seed) for seed in (1, 7, 4711)] == [case(seed) for seed in (1, 7, 4711)]
    assert len({case(seed).content for seed in range(1, 50)}) > 40


def test_what_may_not_happen_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Case(1, "a.jsonl", b'{"text": "a"}\n', "auto", "whole")
    assert read_case(made, tmp_path) == '{"document": 1}'
    monkeypatch.setattr(fuzz_readers, "read_file", lambda *_: iter([Rejected("a.jsonl#1", "made_up", "")]))
    with pytest.raises(AssertionError, match="made_up is in no table of reasons"):
        read_case(made, tmp_path)
    monkeypatch.setattr(fuzz_readers, "read_file", lambda *_: iter([]))
    with pytest.raises(AssertionError, match="neither a row nor a reason"):
        read_case(made, tmp_path)
    monkeypatch.setattr(fuzz_readers, "read_file", readers.read_file)
    monkeypatch.setattr(readers, "json_lines", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read_case(made, tmp_path)


@pytest.mark.cluster
def test_a_worker_that_hangs_or_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_readers, "DEADLINE_S", 0.001)
    (found,) = fuzz_readers.fuzz([300])
    assert found == Finding(300, "a.jsonl, long_line, format: auto", "no answer after 0 s (-9)")
    monkeypatch.setattr(fuzz_readers, "DEADLINE_S", 60.0)
    (answer,) = fuzz_readers.fuzz([1])
    assert not isinstance(answer, Finding) and answer[0] == 1
