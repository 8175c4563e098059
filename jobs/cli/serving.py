"""`acclimate serve MODEL`: a model as an OpenAI-compatible service, until Ctrl-C or SIGTERM."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from configs.errors import Stopped, UserError
from jobs.cli.places import StoreOption, store_root

if TYPE_CHECKING:
    from cluster.artifacts import Artifact
    from cluster.storage import Store
    from configs.schema.run import Cluster
    from configs.schema.serving import Serving
    from serving.app import Endpoint


API_KEY_VARIABLE = "ACCLIMATE_API_KEY"


class NoKey(UserError):
    """The model would be offered to a network without a key."""


class NotServable(UserError):
    """The model lacks what the service needs; the message says how to mend it."""


def serve(
    model: Annotated[str, typer.Argument(help="Name or key of an artifact, a model directory, or s3://...")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value, e.g. dtype=float32 max_replicas=2")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the service.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 offers it to the network.")] = "127.0.0.1",
    interface: Annotated[str, typer.Option(help="chat, or completions for a model without a chat template.")] = "chat",
    name: Annotated[str | None, typer.Option(help="Name clients ask for; default: the artifact's.")] = None,
    store: StoreOption = None,
    cluster: Annotated[str, typer.Option(help="local, auto or HOST:PORT of a Ray.")] = "local",
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Let everybody ask who can reach the port, though no key is set.")
    ] = False,
) -> None:
    """Serve a model through Ray Serve and vLLM (OpenAI-compatible). A key in ACCLIMATE_API_KEY is asked of clients."""
    options = _options(settings or [], {"port": port, "host": host, "interface": interface})
    where = _cluster(cluster)
    from serving.port import require_free_port

    require_key(host, without_key)
    directory, found_name = find_served_model(model, store_root(store))
    if cluster == "local":
        require_free_port(host, port)
    require_servable(directory, options)
    # Ctrl-C and SIGTERM take the same way out: the blocks inside end what they started.
    signal.signal(signal.SIGTERM, _interrupt)
    screen = Console(stderr=True)
    screen.print(f"starting [bold]{name or found_name}[/] from {directory.root} (about a minute on CPU) ...")
    try:
        _serve_until_interrupted(directory, name or found_name, options, where)
    except KeyboardInterrupt:
        screen.print("stopped; nothing is left running")
        raise typer.Exit(Stopped.exit_code) from None


def _serve_until_interrupted(directory: "Store", name: str, options: "Serving", cluster: "Cluster") -> None:
    # vLLM logs to stdout from its import on; there is nothing but the ready text.
    os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"
    from serving.app import serve_model

    with serve_model(directory, name, options, cluster) as endpoint:
        typer.echo(_ready(endpoint, options))
        while True:
            signal.pause()


def require_key(host: str, without_key: bool) -> None:
    """Raises NoKey where others than this host's own users could ask, and nobody said that they may."""
    if without_key or os.environ.get(API_KEY_VARIABLE) or host == "localhost" or host.startswith("127."):
        return
    raise NoKey(
        f"on {host} everybody who reaches this host could use the model. Set a key first: export {API_KEY_VARIABLE}="
        "$(openssl rand -hex 24); or say --without-key where the network itself keeps others out"
    )


def find_served_model(model: str, store: str) -> tuple["Store", str]:
    """The model's directory and the name to serve it by.

    Raises ArtifactNotFound listing what there is, NotServable where its documents may not be served.
    """
    from cluster.artifacts import artifact_around, find_named
    from cluster.storage import open_store
    from configs.schema.run import MODEL_KINDS

    written_as_path = model.startswith(("s3://", ".", "~")) or "/" in model
    if written_as_path or (Path(model).is_dir() and not _is_named(open_store(store), model)):
        directory = open_store(model)
        artifact = artifact_around(directory)
        if artifact is None:
            return directory, Path(model).resolve().name
        _require_allowed(artifact)
        whole = directory.exists("artifact.json")
        return artifact.content.below("model") if whole else directory, artifact.name
    artifact = find_named(open_store(store), model, MODEL_KINDS)
    _require_allowed(artifact)
    return artifact.content.below("model"), artifact.name


def _require_allowed(artifact: "Artifact") -> None:
    """Raises NotServable where it is no language model, or has learnt from what may not be served."""
    from configs.schema.run import MODEL_KINDS

    if artifact.kind not in MODEL_KINDS:
        raise NotServable(f"{artifact.name} is of kind {artifact.kind}; what can be served is {', '.join(MODEL_KINDS)}")
    if "serve" not in artifact.record.get("allowed", ["serve"]):
        raise NotServable(
            f"{artifact.name} ({artifact.kind}-{artifact.key}) may not be served: it has learnt from documents that are not "
            f"allowed to be (`gate.serve`); `acclimate lineage {artifact.name}` shows which licences it comes from"
        )


def _is_named(store: "Store", model: str) -> bool:
    """Whether the store has an artifact of this name: it goes before a folder that happens to be called the same."""
    from cluster.artifacts import ArtifactNotFound, find_named
    from configs.schema.run import MODEL_KINDS

    try:
        find_named(store, model, MODEL_KINDS)
    except ArtifactNotFound:
        return False
    return True


def require_servable(directory: "Store", options: "Serving") -> None:
    """Looks at the model's files before anything starts. Raises ModelError, NotServable."""
    from jobs.model_files import check_model

    facts = check_model(directory)
    if options.interface == "chat" and not facts.has_chat_template:
        raise NotServable(
            f"{directory.root} has no chat template: set `chat_template` in the model stage it comes from, "
            "or serve it for completions only: --interface completions"
        )
    if options.max_model_len is not None and facts.context is not None and options.max_model_len > facts.context:
        raise NotServable(
            f"max_model_len={options.max_model_len} is more than the {facts.context} tokens the model reads"
        )
    if facts.needs_remote_code and not options.trust_remote_code:
        raise NotServable(
            f"{directory.root} runs Python files of its own; read them, then serve with trust_remote_code=true"
        )


def _options(settings: list[str], given: dict[str, Any]) -> "Serving":
    import yaml
    from pydantic import ValidationError

    from configs.schema.serving import Serving

    values = dict(given)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise typer.BadParameter(f"{setting!r}: expected key=value, e.g. dtype=float32")
        values[key] = yaml.safe_load(text)
    try:
        return Serving.model_validate(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise typer.BadParameter("\n".join(lines) + f"\nsettings are: {', '.join(Serving.model_fields)}") from error


def _cluster(address: str) -> "Cluster":
    from pydantic import ValidationError

    from configs.schema.run import Cluster

    try:
        return Cluster.model_validate({"address": address})
    except ValidationError as error:
        raise typer.BadParameter(
            error.errors()[0]["msg"].removeprefix("Value error, "), param_hint="--cluster"
        ) from error


def _ready(endpoint: "Endpoint", options: "Serving") -> str:
    chat = options.interface == "chat"
    path = "chat/completions" if chat else "completions"
    question = '"messages": [{"role": "user", "content": "Hello"}]' if chat else '"prompt": "Hello"'
    header = ' -H "Authorization: Bearer $ACCLIMATE_API_KEY"' if endpoint.needs_key else ""
    key = 'os.environ["ACCLIMATE_API_KEY"]' if endpoint.needs_key else '"none"'
    call = "chat.completions" if chat else "completions"
    argument = 'messages=[{"role": "user", "content": "Hello"}]' if chat else 'prompt="Hello"'
    imports = "import os\n" if endpoint.needs_key else ""
    return (
        f"ready: {endpoint.model} answers at {endpoint.url}\n\n"
        f"curl {endpoint.url}/{path}{header} -H 'Content-Type: application/json' \\\n"
        f'  -d \'{{"model": "{endpoint.model}", {question}}}\'\n\n'
        f"{imports}from openai import OpenAI\n"
        f'client = OpenAI(base_url="{endpoint.url}", api_key={key})\n'
        f'print(client.{call}.create(model="{endpoint.model}", {argument}))\n\n'
        "Ctrl-C ends it."
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
