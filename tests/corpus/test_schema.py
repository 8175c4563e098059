import hashlib

from jobs.corpus.schema import document_id_of, partition_of, text_sha256


def test_document_ids_are_the_first_eight_bytes_of_the_hash():
    digest = hashlib.sha256(b"abc").digest()  # ba7816bf 8f01cfea ...: negative as a signed integer
    assert document_id_of(text_sha256("abc")) == int.from_bytes(digest[:8], "big") - 2**64
    assert partition_of(-1, 8) == 7
