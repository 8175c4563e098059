"""A tokenizer travels to the workers of shards as bytes and, where it can be told, with its class: they need no torch."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from cluster.storage import Store
from jobs.corpus.segments import load_tokenizer, read_tokenizer_files, with_kind
from tests.world.tiny_model import SENTENCES

WORKER = """
import pickle, sys
import jobs.corpus.shards
from jobs.corpus.segments import load_tokenizer
tokenizer = load_tokenizer(pickle.load(open(sys.argv[1], "rb")))
assert "torch" not in sys.modules
print(tokenizer("Iron and oxygen.")["input_ids"])
"""


def test_a_worker_needs_no_torch(tiny_model: Path, tmp_path: Path) -> None:
    files = read_tokenizer_files(Store(str(tiny_model)))
    told = with_kind(files)
    assert told.kind == "transformers.tokenization_utils_tokenizers:TokenizersBackend" and told.sha256 == files.sha256
    (tmp_path / "told").write_bytes(pickle.dumps(told))
    answer = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path / "told")], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == str(load_tokenizer(files)("Iron and oxygen.")["input_ids"])


def test_it_is_the_same_tokenizer(tiny_model: Path) -> None:
    files = read_tokenizer_files(Store(str(tiny_model)))
    found, told = load_tokenizer(files), load_tokenizer(with_kind(files))
    assert [found(text)["input_ids"] for text in SENTENCES] == [told(text)["input_ids"] for text in SENTENCES]


def test_code_of_a_model_s_own_is_found_by_its_files(tiny_model: Path) -> None:
    files = replace(read_tokenizer_files(Store(str(tiny_model))), trust_remote_code=True)
    assert with_kind(files) is files
