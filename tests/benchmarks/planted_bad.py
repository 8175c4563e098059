"""Rows and pages that cannot be read, made of real words, and the reasons that say what is wrong with each."""

import json
from collections.abc import Callable

Bad = tuple[Callable[[str], bytes], tuple[str, ...], bool]
"""How a row is made, the reasons that say what is wrong with it, and whether it is a page."""


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


BAD: dict[str, Bad] = {
    "cut off": (lambda text: _json({"text": text})[:-20], ("broken_json",), False),
    "single quotes": (lambda text: f"{{'text': '{text[:300]}'}}".encode(), ("broken_json",), False),
    "two objects": (lambda text: _json({"text": text}) * 2, ("broken_json",), False),
    "NaN": (lambda text: b'{"text": NaN}', ("broken_json",), False),
    "half a character": (lambda text: b'{"text": "\\ud800 ' + text.encode("ascii", "ignore").replace(b'"', b"") + b'"}', ("broken_json",), False),
    "a number": (lambda text: _json({"text": 7}), ("wrong_type",), False),
    "a list": (lambda text: _json({"text": text.split()}), ("wrong_type",), False),
    "an object": (lambda text: _json({"text": {"body": text}}), ("wrong_type",), False),
    "null": (lambda text: _json({"text": None}), ("wrong_type", "unknown_fields"), False),
    "an array": (lambda text: _json([text]), ("not_an_object",), False),
    "a string": (_json, ("not_an_object",), False),
    "other columns": (lambda text: _json({"body": text}), ("unknown_fields",), False),
    "a conversation without roles": (lambda text: _json({"messages": [{"content": text}]}), ("unknown_role",), False),
    "too deep": (lambda text: b"[" * 3000 + b"]" * 3000, ("too_deep",), False),
    "latin-1": (lambda text: _json({"text": f"Größe {text}"}).decode().encode("latin-1", "replace"), ("not_utf8",), False),
    "a NUL byte": (lambda text: _json({"text": text}).replace(b" ", b"\0", 3), ("broken_json",), False),
    "NUL, escaped": (lambda text: _json({"text": f"{text}\0{text}"}), ("nul_bytes",), False),
    "too short": (lambda text: _json({"text": text[:40]}), ("too_short",), False),
    "spaces": (lambda text: _json({"text": " \n" * 300}), ("too_short",), False),
    "a licence in words": (lambda text: _json({"text": text, "licence": "all rights reserved"}), ("unknown_licence",), False),
    "a licence that is a number": (lambda text: _json({"text": text, "licence": 4}), ("unknown_licence",), False),
    "a page with NUL": (lambda text: f"<html><body><p>{text}\0{text}</p></body></html>".encode(), ("nul_bytes",), True),
    "a page of navigation": (lambda text: b"<html><body><nav><a href='/'>Home</a></nav><footer>2021</footer></body></html>", ("no_text",), True),
    "an empty page": (lambda text: b"", ("empty_file", "no_text"), True),
    "bytes that are no page": (lambda text: bytes(range(128, 160)) * 20, ("not_utf8", "nul_bytes"), True),
}  # fmt: skip
