"""What the HTTP front says to requests it does not take, without a model behind it."""

from typing import Annotated

import pytest
from fastapi import Body
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from serving.ingress import front


class _Question(BaseModel):
    model: str


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = front(None)

    @app.post("/v1/completions")
    def complete(question: Annotated[_Question, Body()]) -> dict[str, str]:
        if question.model != "model":
            raise HTTPException(404, f'Could not find model with id "{question.model}".')  # as Ray's ingress does
        return {"text": "yes"}

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("request_of", "status", "parameter", "code", "said"),
    [
        ({"content": b'{"model": "model"}'}, 415, None, "unsupported_media_type", "application/json"),
        ({"data": {"model": "model"}}, 415, None, "unsupported_media_type", "application/json"),
        ({"json": {}}, 400, "model", "invalid_parameter", "Field required"),
        ({"json": [1]}, 400, None, "invalid_parameter", "dictionary"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, None, "invalid_parameter", "JSON"),
        ({"json": {"model": "gpt"}}, 404, "model", "model_not_found", "gpt"),
    ],
)
def test_what_is_refused_is_told_in_openais_format(
    client: TestClient, request_of: dict[str, object], status: int, parameter: str | None, code: str, said: str
) -> None:
    answer = client.post("/v1/completions", **request_of)  # pyright: ignore[reportArgumentType]
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", parameter, code)
    assert said in error["message"]


def test_an_unknown_path_is_no_unknown_model(client: TestClient) -> None:
    answer = client.get("/v1/nothing")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, None)
    assert client.post("/v1/completions", json={"model": "model"}).json() == {"text": "yes"}
