"""n-grams against a plain loop, signatures against true similarity, and who stays among near-copies."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.storage import Store
from jobs.corpus.clusters import cluster, clusters_of
from jobs.corpus.members import IndexFile, describe, matrix
from jobs.corpus.minhash import BANDS, band_keys, signatures, similarity
from jobs.corpus.near import pairs as pairs_of
from jobs.corpus.ngrams import ngrams
from jobs.corpus.schema import read_table, write_table

WORDS = [f"w{number}" for number in range(4000)]


def plain_ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = re.sub(r"[^a-z0-9]+", " ", text.lower()).split()
    return (
        [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        if len(words) >= n
        else [tuple(words)] * bool(words)
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="ab ,.-\n\tB", max_size=40), max_size=6), st.integers(1, 5))
def test_ngrams_are_those_of_a_plain_loop(texts: list[str], n: int) -> None:
    found = ngrams(pa.array(texts, pa.string()), n)
    wanted = [plain_ngrams(text, n) for text in texts]
    assert np.diff(found.offsets).tolist() == [len(grams) for grams in wanted]
    by_hash = dict(zip(found.hashes.tolist(), (gram for grams in wanted for gram in grams), strict=True))
    assert len(by_hash) == len({gram for grams in wanted for gram in grams})
    assert [by_hash[value] for value in found.hashes.tolist()] == [gram for grams in wanted for gram in grams]


def test_a_text_has_the_same_ngrams_in_whatever_company() -> None:
    hidden, plain = (
        ngrams(pa.array([text]), 2).hashes.tolist() for text in ("in\u00adterest ﬁnds \uff37ide", "interest finds wide")
    )
    assert hidden == plain
    texts = ["Small cells, we found.", "Größe — 5 µm", "细胞很小。", "", "one"]
    together = ngrams(pa.array(texts), 2)
    for number, text in enumerate(texts):
        own = ngrams(pa.array([text]), 2).hashes.tolist()
        assert own == together.hashes[together.offsets[number] : together.offsets[number + 1]].tolist()
    assert np.diff(together.offsets).tolist() == [3, 2, 3, 0, 1]
    assert ngrams(pa.chunked_array([texts[:2], texts[2:]]), 2).hashes.tolist() == together.hashes.tolist()


def changed(generator: np.random.Generator, words: list[str], changes: int) -> list[str]:
    copy = list(words)
    for place in generator.choice(len(words), changes, replace=False):
        copy[place] = f"new{generator.integers(10**9)}"
    return copy


def test_similarity_is_estimated_and_near_copies_meet() -> None:
    generator = np.random.default_rng(5)
    true, estimated, met = [], [], []
    for changes in (0, 2, 4, 8, 16, 40):
        for _ in range(60):
            words = [str(word) for word in generator.choice(WORDS, 300)]
            texts = [" ".join(words), " ".join(changed(generator, words, changes))]
            left, right = (set(plain_ngrams(text, 5)) for text in texts)
            rows = signatures(pa.array(texts))
            keys = band_keys(rows)
            true.append(len(left & right) / len(left | right))
            estimated.append(float(similarity(rows[:1], rows[1:])[0]))
            met.append(bool((keys[0] == keys[1]).any()))
    true_a, met_a = np.array(true), np.array(met)
    assert np.abs(np.array(estimated) - true_a).mean() < 0.035
    assert met_a[true_a > 0.85].mean() > 0.98 and met_a[true_a < 0.3].mean() < 0.1
    assert len({*band_keys(signatures(pa.array(["", "a b"]))).ravel().tolist()}) == 2 * BANDS


def documents(texts: list[str], source: int = 0) -> pa.Table:
    ids = [1000 * source + number for number in range(len(texts))]
    return pa.table(
        {
            "document_id": pa.array(ids, pa.int64()), "sha256": [f"sha-{i}" for i in ids], "uri": [f"doc-{i}" for i in ids],
            "precedence": pa.array([source] * len(ids), pa.int32()), "text": pa.array(texts, pa.large_string()),
            "judgement": pa.array([None] * len(ids), pa.large_string()),
            "messages": pa.array([None] * len(ids), pa.large_string()), "split_by": [f"sha-{i}" for i in ids],
        }
    )  # fmt: skip


def conversations(turns: list[tuple[str, str]]) -> pa.Table:
    """Of questions and answers; the split goes by the question."""
    table = documents([f"{question}\n\n{answer}" for question, answer in turns])
    messages = [
        json.dumps([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
        for question, answer in turns
    ]
    columns = {
        "messages": pa.array(messages, pa.large_string()),
        "split_by": pa.array([f"q-{turn[0]}" for turn in turns]),
    }
    return pa.table({name: columns.get(name, table[name]) for name in table.column_names})


def clustered(store: Store, corpora: list[pa.Table], similar: float = 0.75) -> dict[int, dict]:
    """By id, what `cluster` decides of the corpora, oldest first."""
    files, keys, ids = [], [], []
    for age, corpus in enumerate(corpora):
        members = describe(corpus)
        compared = members.filter(pc.field("signature").is_valid())
        written = write_table(store, f"near/part-{age:05d}.parquet", members)
        files.append(IndexFile(store.root, written.name, written.sha256, age))
        keys.append(band_keys(matrix(compared["signature"])))
        ids.append(np.repeat(compared["document_id"].to_numpy(), BANDS))
    pairs = pairs_of(np.concatenate(keys).ravel(), np.concatenate(ids))
    written = write_table(store, "work/pairs-00000.parquet", pa.table({"a": pairs[0], "b": pairs[1]}))
    report = cluster(files, {written.name: written.sha256}, similar, store, 700)
    table = read_table(store, "near/clusters.parquet", report["file"]["sha256"])
    parts = [read_table(store, name, sha256) for name, sha256 in report["parts"].items()]
    assert pa.concat_tables([table.slice(0, 0), *parts]).sort_by("document_id").equals(table.sort_by("document_id"))
    for number, document in enumerate(table["document_id"].to_pylist()):
        assert document in clusters_of(document % 700, report["parts"], store)["document_id"].to_pylist(), number
    return {row.pop("document_id"): row for row in table.to_pylist()}


def text_of(generator: np.random.Generator) -> list[str]:
    return [str(word) for word in generator.choice(WORDS, 200)]


def test_the_longest_stays_and_a_stranger_is_never_named(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    words, stranger = text_of(generator), text_of(generator)
    found = clustered(
        Store(str(tmp_path)),
        [
            documents(
                [
                    " ".join(words[:-3]),
                    " ".join(words),
                    " ".join(changed(generator, words[:-20], 1)),
                    " ".join(stranger),
                ]
            )
        ],
    )
    assert set(found) == {0, 1, 2}
    assert [found[number]["kept"] for number in range(3)] == [False, True, False]
    assert {found[number]["like"] for number in (0, 2)} == {"doc-1"}
    assert {row["split_by"] for row in found.values()} == {"sha-1"} and {
        row["cluster_id"] for row in found.values()
    } == {1}


def test_a_chain_of_changes_does_not_swallow_its_far_end(tmp_path: Path) -> None:
    """Each is like its neighbour; the last has little of the first, so it stays, on the same side of the split."""
    generator = np.random.default_rng(2)
    chain = [text_of(generator)]
    for _ in range(8):
        chain.append(changed(generator, chain[-1], 3))
    found = clustered(Store(str(tmp_path)), [documents([" ".join(words) for words in chain])])
    kept = [number for number, row in found.items() if row["kept"]]
    assert 8 in kept and 1 < len(kept) < 9  # new words are longer here, and the longest stays
    assert len({row["split_by"] for row in found.values()}) == 1
    for row in (row for row in found.values() if not row["kept"]):
        assert int(row["like"].removeprefix("doc-")) in kept


def test_of_many_copies_of_one_form_letter_one_stays(tmp_path: Path) -> None:
    """Each differs from each other one in two words, and met two of them."""
    generator = np.random.default_rng(6)
    letters = [text_of(generator) for _ in range(3)]
    copies = [" ".join([*changed(generator, letter, 1), f"n{copy}"]) for letter in letters for copy in range(100)]
    found = clustered(Store(str(tmp_path)), [documents(copies)])
    kept = [number for number, row in found.items() if row["kept"]]
    assert [number // 100 for number in kept] == [0, 1, 2]
    assert {found[number]["like"] for number in range(100)} == {f"doc-{kept[0]}"}


def test_conversations_are_alike_where_their_answers_are(tmp_path: Path) -> None:
    """One passage with five questions, and an answer that came twice."""
    generator = np.random.default_rng(7)
    passage = " ".join(text_of(generator))
    turns = [(f"{passage} What about {number}?", " ".join(text_of(generator)[:20])) for number in range(5)]
    turns.append((f"{passage}  What about {0} now?", turns[0][1]))
    found = clustered(Store(str(tmp_path)), [conversations(turns)])
    assert [row["kept"] for row in found.values()].count(False) == 1 and not (found[0]["kept"] and found[5]["kept"])
    assert found[0]["split_by"] == found[5]["split_by"] != found[1]["split_by"]


def test_a_question_is_on_one_side_whatever_is_alike(tmp_path: Path) -> None:
    """Two answers to each of two questions; an answer to the first is like one to the second, and the others met nobody."""
    generator = np.random.default_rng(8)
    first, second = (" ".join(text_of(generator)[:10]) for _ in range(2))
    shared, others = " ".join(text_of(generator)), [" ".join(text_of(generator)) for _ in range(3)]
    turns = [
        (first, shared),
        (second, shared + " indeed"),
        (first, others[0]),
        (second, others[1]),
        ("else", others[2]),
    ]
    found = clustered(Store(str(tmp_path)), [conversations(turns)])
    assert set(found) == {0, 1, 2, 3} and sum(not row["kept"] for row in found.values()) == 1
    assert len({row["split_by"] for row in found.values()}) == 1


def test_texts_without_words_are_no_copies_of_each_other(tmp_path: Path) -> None:
    assert describe(documents(["\u2803\u2801", "\u2807\u2803 !", "\u2600"]))["signature"].null_count == 3
    assert clustered(Store(str(tmp_path)), [documents(["\u2803\u2801", "\u2807\u2803 !", "a word"])]) == {}


def test_what_an_earlier_corpus_has_goes_and_the_earlier_one_is_not_touched(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    old, new = text_of(generator), text_of(generator)
    earlier = documents([" ".join(old)])
    later = documents(
        [" ".join([*changed(generator, old, 2), "and", "more", "words"]), " ".join(new), " ".join(old)], 7
    )
    # The same text has the same id in both.
    later = later.set_column(0, "document_id", pa.array([7000, 7001, 0], pa.int64()))
    found = clustered(Store(str(tmp_path)), [earlier, later])
    assert set(found) == {0, 7000}
    assert not found[0]["kept"] and not found[7000]["kept"]
    assert found[7000]["like"] == found[0]["like"] == "doc-0"


def test_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    words = text_of(generator)
    table = documents([" ".join(changed(generator, words, n)) for n in (0, 2, 3, 1)] + [" ".join(text_of(generator))])
    order = pa.array([3, 1, 4, 0, 2])
    first, second = Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))
    assert clustered(first, [table]) == clustered(second, [table.take(order)])
    assert first.read("near/clusters.parquet") == second.read("near/clusters.parquet")
