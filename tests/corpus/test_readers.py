import errno
import gc
import gzip
import io
import json
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.schema.corpus import Source
from jobs.corpus.pubmed import CONCLUSION_INSTRUCTION
from jobs.corpus.raw import Raw, Rejected
from jobs.corpus.readers import read_file
from jobs.corpus.schema import DataError
from jobs.corpus.tables import parquet_rows
from tests.corpus.sources import PUBMED, write_jsonl, write_pubmed


def read(path: Path, format: str) -> list[Raw | Rejected]:
    source = Source(path=str(path), format=format, licence="CC0-1.0")  # pyright: ignore[reportArgumentType]
    return list(read_file(str(path), path.name, source))


def reasons(rows: list[Raw | Rejected]) -> list[tuple[str, str]]:
    return [(row.uri, row.reason) for row in rows if isinstance(row, Rejected)]


def documents(rows: list[Raw | Rejected]) -> list[Raw]:
    return [row for row in rows if isinstance(row, Raw)]


def test_jsonl_keeps_values_as_they_are_written(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "007"}, {"text": "one\u2028two\x85three"}, {"text": "null"}])
    assert [row.text for row in documents(read(path, "jsonl"))] == ["007", "one\u2028two\x85three", "null"]


def test_every_bad_line_is_named_with_its_reason(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    lines = [
        b'\xef\xbb\xbf{"text": "good"}',
        b'{"text": "cut off',
        b'{"text": "\xff\xfe"}',
        b'{"text": 12345}',
        b"[1, 2]",
        b"",
        b'{"title": "x"}',
        b'{"messages": [{"role": "tool", "content": "x"}]}',
        b'{"messages": []}',
        b'{"text": "a\\u0000b"}',
        b'{"prompt": "Q", "chosen": "A", "rejected": "B\\u0000"}',
        b'{"text": "a \\\\u0000 in code, also good"}',
    ]
    path.write_bytes(b"\n".join(lines))
    rows = read(path, "jsonl")
    assert reasons(rows) == [
        ("a.jsonl#2", "broken_json"),
        ("a.jsonl#3", "not_utf8"),
        ("a.jsonl#4", "wrong_type"),
        ("a.jsonl#5", "not_an_object"),
        ("a.jsonl#7", "unknown_fields"),
        ("a.jsonl#8", "unknown_role"),
        ("a.jsonl#9", "wrong_type"),
        ("a.jsonl#10", "nul_bytes"),
        ("a.jsonl#11", "nul_bytes"),
    ]
    kept = [("a.jsonl#1", "good"), ("a.jsonl#12", "a \\u0000 in code, also good")]
    assert [(row.uri, row.text) for row in documents(rows)] == kept


USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "system", "content": "C"}, USER, ANSWER]},
        {"instruction": "Q", "context": "C", "response": "A"},
        {"instruction": "Q", "input": "C", "output": "A"},
        {"prompt": [{"role": "system", "content": "C"}, USER], "completion": [ANSWER]},
    ],
)
def test_instruction_sets_become_the_same_conversation(tmp_path: Path, row: dict):
    (document,) = documents(read(write_jsonl(tmp_path / "a.jsonl", [row]), "jsonl"))
    assert document.messages == [{"role": "system", "content": "C"}, USER, ANSWER]
    assert document.text == "C\n\nQ\n\nA"


@pytest.mark.parametrize("row", [{"instruction": "Q", "input": "", "output": "A"}, {"prompt": "Q", "completion": "A"}])
def test_without_context_there_is_no_system_message(tmp_path: Path, row: dict):
    (document,) = documents(read(write_jsonl(tmp_path / "a.jsonl", [row]), "jsonl"))
    assert document.messages == [USER, ANSWER]


def test_pubmed_text_and_conclusion_task(tmp_path: Path):
    rows = read(write_pubmed(tmp_path / "p.xml.gz"), "pubmed")
    structured, plain = documents(rows)
    assert structured.uri == "p.xml.gz#1"
    assert structured.text == (
        "Iron in E. coli.\n\nBACKGROUND: Cells need iron.\n\nMETHODS: We counted Fe2+.\n\nCONCLUSIONS: Iron is needed."
    )
    assert structured.messages == [
        {"role": "system", "content": "Iron in E. coli.\n\nBACKGROUND: Cells need iron.\n\nMETHODS: We counted Fe2+."},
        {"role": "user", "content": CONCLUSION_INSTRUCTION},
        {"role": "assistant", "content": "Iron is needed."},
    ]
    assert (plain.text, plain.messages) == ("Plain.\n\nOne paragraph.", None)
    assert reasons(rows) == [
        ("p.xml.gz#3", "not_english"),
        ("p.xml.gz#4", "retracted"),
        ("p.xml.gz#5", "no_abstract"),
        ("p.xml.gz#2", "repeated_pmid"),
    ]


def test_a_book_among_pubmed_articles_is_set_aside(tmp_path: Path):
    book = "<PubmedBookArticle><BookDocument><PMID>9</PMID><Abstract><AbstractText>B.</AbstractText></Abstract></BookDocument></PubmedBookArticle>"
    path = tmp_path / "p.xml"
    path.write_text(PUBMED.replace("<PubmedArticleSet>", f"<PubmedArticleSet>{book}"))
    first, *others = read(path, "pubmed")
    assert (
        isinstance(first, Rejected) and (first.uri, first.reason) == ("p.xml#9", "book") and "Bookshelf" in first.detail
    )
    assert len(others) == 6


def test_a_pubmed_label_is_one_line_in_the_task_too(tmp_path: Path):
    path = tmp_path / "p.xml"
    path.write_text(PUBMED.replace('Label="METHODS"', 'Label="MATERIALS  AND&#10; METHODS"'))
    messages = documents(read(path, "pubmed"))[0].messages
    assert messages is not None and "\n\nMATERIALS AND METHODS: We counted" in messages[0]["content"]


def test_a_truncated_gzip_keeps_what_was_read_and_says_so(tmp_path: Path):
    path = tmp_path / "a.jsonl.gz"
    lines = "".join(json.dumps({"text": f"row {n} {n * n * 7919}"}) + "\n" for n in range(5000))
    whole = gzip.compress(lines.encode())
    path.write_bytes(whole[: len(whole) // 2])
    *kept, last = read(path, "jsonl")
    assert isinstance(last, Rejected)
    assert (last.uri, last.reason) == ("a.jsonl.gz", "damaged_file")
    assert f"the {len(kept)} rows before are kept" in last.detail
    assert 0 < len(kept) < 5000
    assert all(isinstance(row, Raw) for row in kept)


def test_broken_xml_not_gzip_and_empty_files_are_named(tmp_path: Path):
    (tmp_path / "cut.xml").write_text(PUBMED[:1200])
    (tmp_path / "not.xml.gz").write_text(PUBMED)
    (tmp_path / "empty.jsonl").write_text("\n")
    assert reasons(read(tmp_path / "cut.xml", "pubmed"))[-1] == ("cut.xml", "damaged_file")
    assert reasons(read(tmp_path / "not.xml.gz", "pubmed")) == [("not.xml.gz", "damaged_file")]
    assert reasons(read(tmp_path / "empty.jsonl", "jsonl")) == [("empty.jsonl", "empty_file")]


def test_a_long_cell_does_not_end_a_csv_file(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "\n".join(["short", "x" * 200_000, "after"]) + "\n")
    assert [len(row.text) for row in documents(read(path, "auto"))] == [5, 200_000, 5]


def test_a_quote_that_is_never_closed_does_not_swallow_the_rest_of_a_csv_file(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text('text\nfirst\n"opened\nthird\nfourth\n')
    rows = read(path, "auto")
    assert [row.text for row in documents(rows)] == ["first"]
    assert reasons(rows) == [("a.csv#2", "broken_csv")]


def test_a_csv_header_that_names_a_column_twice_is_refused(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("text,id,text\nrow,1,other\n")
    with pytest.raises(DataError, match=r"a\.csv: the header names `text` more than once"):
        read(path, "auto")


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", b","), (".tsv", b"\t")])
def test_a_byte_that_is_no_utf8_costs_the_row_whose_text_has_it(tmp_path: Path, suffix: str, separator: bytes):
    rows = [
        b"text,id,n\xe4me",
        b"gr\xc3\xbcn,1,",
        b"gr\xfcn,2,",
        b"last,3,\xfc",
        *(b"row %d,4," % n for n in range(5000)),
    ]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"\n".join([*rows, b"end\xff,1,"]).replace(b",", separator))
    read_rows = read(path, "auto")
    assert [row.text for row in documents(read_rows)] == ["grün", "last", *(f"row {n}" for n in range(5000))]
    assert reasons(read_rows) == [(f"a{suffix}#2", "not_utf8"), (f"a{suffix}#5004", "not_utf8")]
    assert "`text` has the byte 0xFC" in getattr(read_rows[1], "detail", "")
    assert documents(read_rows)[1].ignored == ("id", "n\\xe4me")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_csv_file_that_is_given_up_ends_without_noise(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("txt\n" + "row\n" * 50)
    with pytest.raises(DataError, match=r"a\.csv#1: .*`txt`"):
        read(path, "auto")
    gc.collect()


def write_parquet(path: Path, texts: list[str | None]) -> Path:
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path, row_group_size=1000)
    return path


def test_a_damaged_page_of_a_parquet_file_sets_the_rest_aside(tmp_path: Path):
    path = write_parquet(tmp_path / "a.parquet", [f"row {n} {n * n * 7919}" for n in range(3000)])
    content = path.read_bytes()
    second = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    path.write_bytes(content[:second] + b"\xff" * 64 + content[second + 64 :])
    *kept, last = read(path, "auto")
    assert isinstance(last, Rejected) and (last.uri, last.reason) == ("a.parquet", "damaged_file")
    assert len(kept) == 1000 and "the 1000 rows before are kept" in last.detail


def bad_strings(values: list[bytes]) -> pa.Array:
    """Arrow takes the bytes as they are."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


def test_values_of_a_parquet_column_that_nobody_reads_cost_nothing(tmp_path: Path):
    table = pa.table({
        "text": ["one", "two"],
        "time": pa.array([4 * 10**17, 0], pa.int64()).cast(pa.timestamp("us")),
        "day": pa.array([10_000_000, 0], pa.int32()).cast(pa.date32()),
        "span": pa.array([2**62, 0], pa.int64()).cast(pa.duration("s")),
        "zone": pa.array([0, 0], pa.timestamp("us", tz="Foo/Bar")),
        "name": bad_strings([b"\xff", b"good"]),
        "nested": pa.StructArray.from_arrays([bad_strings([b"a", b"\xe9"])], ["value"]),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "a.parquet", store_schema=True)
    rows = documents(read(tmp_path / "a.parquet", "auto"))
    assert [row.text for row in rows] == ["one", "two"]
    assert rows[0].ignored == ("time", "day", "span", "zone", "name", "nested")


def test_a_parquet_text_that_is_no_utf8_costs_its_row(tmp_path: Path):
    pq.write_table(pa.table({"text": bad_strings([b"one", b"tw\xff", b"three"])}), tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet", "auto")
    assert [row.text for row in documents(rows)] == ["one", "three"]
    assert reasons(rows) == [("a.parquet#2", "not_utf8")]
    assert "`text`, string: 'utf-8' codec can't decode byte 0xff in position 2" in getattr(rows[1], "detail", "")
    pq.write_table(
        pa.table({"text": pa.array([4 * 10**17], pa.int64()).cast(pa.timestamp("us"))}), tmp_path / "b.parquet"
    )
    assert reasons(read(tmp_path / "b.parquet", "auto")) == [("b.parquet#1", "wrong_type")]


def test_what_a_disk_says_while_a_parquet_file_is_read_is_no_damage(tmp_path: Path):
    path = write_parquet(tmp_path / "a.parquet", ["x" * 50] * 3000)

    class Failing(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        readall = read  # pyright: ignore[reportAssignmentType]

    with pytest.raises(OSError, match="Input/output error"):
        list(parquet_rows(cast(BinaryIO, Failing(path)), "a.parquet"))


def test_a_table_whose_first_row_is_empty_is_known_by_the_next(tmp_path: Path):
    rows = read(write_parquet(tmp_path / "a.parquet", [None, "one", None, "two"]), "auto")
    assert [row.text for row in documents(rows)] == ["one", "two"]
    assert reasons(rows) == [("a.parquet#1", "unknown_fields"), ("a.parquet#3", "unknown_fields")]
