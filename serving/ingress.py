"""The HTTP front of a served model: Ray's OpenAI routes, without their open door.

Ray's own application answers everybody and lets every web page of the user's browser call it (CORS `*` with credentials).
This one sends no CORS headers and, where a key is set, asks for `Authorization: Bearer KEY`. Whatever is refused is told in
OpenAI's error format.

The key itself never travels: replicas get its SHA-256, and compare hashes. That is as good as the key is long, hence
MIN_KEY_CHARACTERS.
"""

import hashlib
import hmac
import os
from http import HTTPStatus
from typing import cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from ray import serve
from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata
from ray.llm._internal.serve.core.ingress.ingress import init
from ray.serve.deployment import Application
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from configs.errors import UserError

API_KEY_VARIABLE = "ACCLIMATE_API_KEY"
MIN_KEY_CHARACTERS = 16
"""A shorter key could be found from its hash by trying."""


class ApiKeyTooShort(UserError):
    """The key in the environment can be guessed."""


def api_key_digest() -> str | None:
    """SHA-256 of the key in the environment; None where none is set. Raises ApiKeyTooShort."""
    key = os.environ.get(API_KEY_VARIABLE)
    return digest_of(key) if key else None


def digest_of(key: str) -> str:
    """SHA-256 of a key, in hex. Raises ApiKeyTooShort."""
    if len(key) < MIN_KEY_CHARACTERS:
        raise ApiKeyTooShort(
            f"{API_KEY_VARIABLE} has {len(key)} characters, at least {MIN_KEY_CHARACTERS} are needed: "
            "`openssl rand -hex 24` makes one; unset it to serve without a key"
        )
    return hashlib.sha256(key.encode()).hexdigest()


class RequireApiKey:
    """ASGI middleware: 401 in OpenAI's error format unless the bearer token hashes to `digest`."""

    def __init__(self, app: ASGIApp, digest: str) -> None:
        self.app = app
        self.digest = digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._allowed(dict(scope["headers"]).get(b"authorization", b"")):
            message = f"Wrong or missing API key: send `Authorization: Bearer` with the value of {API_KEY_VARIABLE}."
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
            await JSONResponse({"error": error}, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _allowed(self, header: bytes) -> bool:
        scheme, _, key = header.partition(b" ")
        digest = hashlib.sha256(key.strip()).hexdigest()
        return scheme.lower() == b"bearer" and hmac.compare_digest(digest, self.digest)


def front(key_digest: str | None) -> FastAPI:
    """Ray's application before it has routes, with our door and with errors that OpenAI's clients can read."""
    app = init()
    app.user_middleware = [entry for entry in app.user_middleware if entry.cls is not CORSMiddleware]
    if key_digest is not None:
        app.add_middleware(RequireApiKey, digest=key_digest)
    app.add_exception_handler(RequestValidationError, _not_understood)
    app.add_exception_handler(HTTPException, _refused)
    return app


def _not_understood(request: Request, error: Exception) -> JSONResponse:
    """Ray's own handler repeats the body, and fails where that is no JSON."""
    assert isinstance(error, RequestValidationError)
    kind = request.headers.get("content-type", "none")
    if "json" not in kind:
        message = f"The body's content type is {kind}: send JSON with `Content-Type: application/json`."
        return _error(415, message, None, "unsupported_media_type")
    first = error.errors()[0]
    place = first["loc"][1:] if first["type"] != "json_invalid" else ()  # "body", then keys; of broken JSON an offset
    parameter = ".".join(map(str, place))
    message = f"{parameter}: {first['msg']}" if parameter else first["msg"]
    return _error(400, message, parameter or None, "invalid_parameter")


def _refused(request: Request, error: Exception) -> JSONResponse:
    """Of Ray's routes (an unknown model) or of none (an unknown path)."""
    assert isinstance(error, HTTPException)
    unknown_path = request.scope.get("route") is None
    model_is_unknown = error.status_code == HTTPStatus.NOT_FOUND and not unknown_path
    return _error(
        error.status_code, error.detail, *(("model", "model_not_found") if model_is_unknown else (None, None))
    )


def _error(status: int, message: str, parameter: str | None, code: str | None) -> JSONResponse:
    error = {"message": message, "type": "invalid_request_error", "param": parameter, "code": code}
    return JSONResponse({"error": error}, status)


def openai_application(config: LLMConfig, key_digest: str | None) -> Application:
    """Binds the ingress and the replicas of one model.

    Ray's `build_openai_app` takes no middleware; this is its body (ray/llm/_internal/serve/core/ingress/builder.py) with ours.
    """
    ingress = make_fastapi_ingress(OpenAiIngress, app=front(key_digest))
    name = config.model_id
    options = {**OpenAiIngress.get_deployment_options([config]), "logging_config": {"log_level": "WARNING"}}
    deployment = cast(serve.Deployment, serve.deployment(ingress, **options))
    return deployment.bind(
        llm_deployments={name: build_llm_deployment(config)},
        model_cards={name: to_model_metadata(name, config)},
        lora_paths={},
    )
