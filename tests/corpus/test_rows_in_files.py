"""Rows in files: their bytes, what is broken, packed or too long, and directories that mix formats."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from jobs.corpus import json_rows, tables, unpack
from jobs.corpus.raw import ByteRange, Raw
from jobs.corpus.schema import DataError
from tests.corpus.made_files import HTML, docx
from tests.corpus.read_one import one, read, reason, text
from tests.corpus.sources import PUBMED

ROWS = [{"text": f'row "{number}" [ {{ \\ }}, é'} for number in range(300)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"\xef\xbb\xbf" + LINES),
        ("a.json", b"\xef\xbb\xbf [" + json.dumps(ROWS, indent=1).encode()[1:] + b"\n"),
        ("b.json", json.dumps(ROWS, ensure_ascii=False, separators=(",", ":")).encode()),
        ("lines.json", LINES),
    ],
)
def test_the_byte_range_of_a_row_is_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.setattr(json_rows, "SKIP_BYTES", 7)  # pieces end inside strings, escapes and brackets
    (tmp_path / name).write_bytes(content)
    rows = read(tmp_path / name)
    assert [text(row) for row in rows] == [row["text"] for row in ROWS]
    for row, expected in zip(rows, ROWS, strict=True):
        assert isinstance(row, Raw) and row.byte_range is not None
        start, length = row.byte_range
        assert json.loads(content[start : start + length]) == expected


def test_an_array_ends_at_what_is_broken(tmp_path: Path) -> None:
    for content, kept, told in (
        ('[{"text": "a"}, {"text": b}, {"text": "c"}]', 1, "broken_json"),
        ('[{"text": "a"}, {"text": "b"}', 1, "broken_json"),
        ('[{"text": "a"},]', 1, "broken_json"),
        ('[{"text": "a"}] x', 1, "broken_json"),
        ('[{"text": "a"}}', 1, "broken_json"),
        ("[]", 0, "empty_file"),
        ("[", 0, "broken_json"),
    ):
        (tmp_path / "a.json").write_text(content)
        *before, last = read(tmp_path / "a.json")
        assert (len(before), reason(last)) == (kept, told), content
        assert all(isinstance(row, Raw) for row in before), content


def test_a_row_that_is_too_long_costs_that_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "MAX_ROW_BYTES", 100)
    monkeypatch.setattr(json_rows, "SKIP_BYTES", 64)
    rows = [{"text": "a"}, {"text": "b" * 1000}, {"text": "c"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for name, third in (("a.jsonl", ByteRange(14 + 1013, 14)), ("a.json", ByteRange(1 + 15 + 1014, 13))):
        first, long, last = read(tmp_path / name)
        assert (text(first), text(last)) == ("a", "c"), name
        assert reason(long) == "row_too_long" and long.uri == f"{name}#2"
        assert isinstance(last, Raw) and last.byte_range == third
    monkeypatch.setattr(tables, "MAX_ROW_BYTES", 100)
    (tmp_path / "a.csv").write_text(f"text\na\n{'b' * 1000}\nc\n")
    first, long = read(tmp_path / "a.csv")
    assert (text(first), reason(long), long.uri) == ("a", "row_too_long", "a.csv#2")


def test_json_too_deep_and_rows_with_too_many_columns_cost_that_row(tmp_path: Path) -> None:
    deep = '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"
    wide = json.dumps({f"column{number}": number for number in range(100_000)})
    (tmp_path / "a.jsonl").write_text(f'{deep}\n{wide}\n{{"text": "good"}}\n')
    first, second, good = read(tmp_path / "a.jsonl")
    assert (reason(first), reason(second), text(good)) == ("too_deep", "too_many_columns", "good")
    (tmp_path / "a.json").write_text(f'[{deep}, {{"text": "good"}}]')
    first, good = read(tmp_path / "a.json")
    assert (reason(first), text(good)) == ("too_deep", "good")
    assert reason(one(tmp_path / "a.csv", ",".join(f"c{number}" for number in range(100_000)))) == "too_many_columns"


def test_packed_files_are_what_they_hold(tmp_path: Path) -> None:
    packs = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    for suffix, pack in packs.items():
        for name, content in {
            "a.jsonl": LINES,
            "b.html": HTML.encode(),
            "c.xml": PUBMED.encode(),
            "d.docx": docx(),
        }.items():
            (tmp_path / name).write_bytes(content)
            (tmp_path / f"{name}{suffix}").write_bytes(pack(content))
            plain, packed = read(tmp_path / name), read(tmp_path / f"{name}{suffix}")
            assert [text(row) for row in plain if isinstance(row, Raw)] == [
                text(row) for row in packed if isinstance(row, Raw)
            ]
            assert len(plain) == len(packed)
    frames = [zstandard.ZstdCompressor().compress(line + b"\n") for line in LINES.splitlines()]
    (tmp_path / "many.jsonl.zst").write_bytes(b"".join(frames))
    assert len(read(tmp_path / "many.jsonl.zst")) == 300


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_packed_file_that_is_cut_keeps_what_was_read(tmp_path: Path, suffix: str) -> None:
    lines = "".join(json.dumps({"text": f"row {n} {n * n * 7919}"}) + "\n" for n in range(20_000)).encode()
    whole = gzip.compress(lines) if suffix == ".gz" else zstandard.ZstdCompressor().compress(lines)
    path = tmp_path / f"a.jsonl{suffix}"
    for length in (len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        *kept, last = read(path)
        assert reason(last) == "damaged_file" and 0 < len(kept) <= 20_000
        assert all(isinstance(row, Raw) for row in kept)
    path.write_bytes(whole + b"junk")
    assert reason(read(path)[-1]) == "damaged_file"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_bomb_ends_where_its_ratio_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(unpack, "FREE_UNPACKED_BYTES", 1 << 20)
    line = json.dumps({"text": "a" * 1000}).encode() + b"\n"
    content = line * 20_000
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(
        gzip.compress(content, 9) if suffix == ".gz" else zstandard.ZstdCompressor(level=9).compress(content)
    )
    *kept, last = read(path)
    assert reason(last) == "zip_bomb" and f"the {len(kept)} rows before are kept" in getattr(last, "detail", "")
    assert 0 < len(kept) < 20_000


def test_a_directory_may_mix_formats_and_a_name_that_says_nothing_needs_one(tmp_path: Path) -> None:
    (tmp_path / "odd").write_text("words")
    with pytest.raises(
        DataError, match=r"odd: rows are read from files ending in \.jsonl.*set `format` to one of `text`, `html`"
    ):
        read(tmp_path / "odd")
    assert [text(row) for row in read(tmp_path / "odd", "text")] == ["words"]


def test_a_header_of_parquet_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="names `text` more than once"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("bad", ["NaN", "[1, -Infinity]", '"\\ud800"', '"a\tb"'])
def test_what_only_loose_json_allows_costs_that_row_in_lines_and_arrays(tmp_path: Path, bad: str) -> None:
    rows = ['{"text": "a"}', f'{{"text": "b", "score": {bad}}}', '{"text": "c, ] \\" }"}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    (tmp_path / "a.json").write_text(f"[{', '.join(rows)}]")
    for name in ("a.jsonl", "a.json"):
        first, loose, last = read(tmp_path / name)
        assert (text(first), text(last)) == ("a", 'c, ] " }')
        assert (reason(loose), loose.uri) == ("broken_json", f"{name}#2")
        assert "write null" in getattr(loose, "detail", "")


def test_what_is_not_read_and_what_to_do_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "a}, {"text": "b"}, {"text": NaN}]')
    (broken,) = read(tmp_path / "a.json")
    assert reason(broken) == "broken_json" and "the rest of the file is not read" in getattr(broken, "detail", "")
    (tmp_path / "b.json").write_text(json.dumps({"text": "a"}, indent=1))
    for row in read(tmp_path / "b.json"):
        assert reason(row) == "broken_json" and "an array of objects, or one whole object a line" in getattr(
            row, "detail", ""
        )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv"])
def test_rows_in_utf16_say_to_convert_the_file(tmp_path: Path, name: str, encoding: str) -> None:
    content = f"text\tid\n{'é'}\t1\n" if name.endswith("sv") else '{"text": "é"}\n{"text": "b"}\n'
    (tmp_path / name).write_bytes(content.encode(encoding))
    rows = read(tmp_path / name)
    assert rows and {reason(row) for row in rows} <= {"not_utf8", "nul_bytes", "broken_json"}
    assert all("looks like UTF-16: convert the file to UTF-8" in getattr(row, "detail", "") for row in rows)
