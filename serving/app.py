"""One model as an OpenAI-compatible service: Ray Serve in front, vLLM behind.

    check key and port                       nothing has started yet (the caller has checked the model's files)
      -> connect Ray                         cluster/session.py
      -> mirror the model on each node       cluster/mirror.py, inside the replica, before its engine
      -> ingress + replicas                  serving/ingress.py, ray.serve.llm
      -> one real request                    only its answer makes the service "ready"

At the end of the block the application, and every process that was started here, is gone.
"""

import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import psutil
import ray
from ray import serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.config import HTTPOptions
from ray.serve.deployment import Application
from ray.serve.llm import LLMConfig
from ray.serve.schema import ApplicationStatus

from cluster.mirror import ModelContent, model_content
from cluster.preload import preload_environment
from cluster.session import connect
from cluster.storage import Store
from configs.errors import RunFailed, UserError
from configs.schema.run import Cluster
from configs.schema.serving import Serving
from serving.ingress import API_KEY_VARIABLE, api_key_digest, openai_application
from serving.mirror import MirrorBeforeEngine
from serving.port import require_free_port

APPLICATION = "acclimate"
HEAD_RESOURCE = "node:__internal_head__"
"""Which Ray gives to the head alone (ray/_private/ray_constants.py, HEAD_NODE_RESOURCE_NAME)."""
INGRESS_CPUS = 1
REPLICA_CPUS = 2
"""Logical CPUs of one replica: 1, and 1 for its engine's bundle."""
START_TIMEOUT_S = 1800.0
"""A 70B model from S3 takes some minutes; what is not up after half an hour never will be."""
REPLICA_FAILED = "failed to start"
"""In Serve's message of a deployment after the first replica whose constructor raised (deployment_state.py)."""
POLL_S = 0.5
FIRST_ANSWER_TIMEOUT_S = 120.0
"""The first request compiles kernels; the replicas were reported healthy before it is sent."""
END_TIMEOUT_S = 10.0
"""After Ray has ended its processes they need moments; what is left then is killed by id."""


class ServiceFailed(RunFailed):
    """Ray Serve could not bring the application up, or its first answer was wrong."""


class NotReachable(UserError):
    """The service would be up where nobody can ask it."""


@dataclass(frozen=True)
class Endpoint:
    """A service that has answered.

    Example:
        Endpoint(url="http://127.0.0.1:8000/v1", model="sft", needs_key=False)
    """

    url: str
    model: str
    needs_key: bool


@contextmanager
def serve_model(model: Store, name: str, options: Serving, cluster: Cluster) -> Iterator[Endpoint]:
    """Serves the model directory `model` as `name` for the time of the block.

    Raises PortInUse, ApiKeyTooShort before anything starts; ClusterUnreachable, ServiceFailed later.
    """
    key_digest = api_key_digest()
    content = model_content(model)
    if cluster.address == "local":
        require_free_port(options.host, options.port)
    with _ended_processes(), connect(cluster):
        cpus = ray.cluster_resources().get("CPU", 0)
        needed = INGRESS_CPUS + REPLICA_CPUS * options.min_replicas
        if cpus < needed:
            raise ServiceFailed(
                f"serving with min_replicas={options.min_replicas} needs {needed} logical CPUs, this Ray offers {cpus:.0f}"
            )
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        served_at = _reachable_host(cluster, options)
        ours = not _serve_runs()
        serve.start(
            http_options=HTTPOptions(host=options.host, port=options.port), logging_config={"log_level": "WARNING"}
        )
        try:
            application = openai_application(llm_config(content, name, options), key_digest)
            _bring_up(application)
            endpoint = Endpoint(f"http://{served_at}:{options.port}/v1", name, key_digest is not None)
            _answer_once(endpoint, options.interface)
            yield endpoint
        finally:
            if cluster.address != "local":  # a local Ray ends as a whole, without waiting for anybody
                serve.shutdown() if ours else serve.delete(APPLICATION)


def _reachable_host(cluster: Cluster, options: Serving) -> str:
    """Where the service is reached from here. Its HTTP front is on the head. Raises PortInUse, NotReachable."""
    everywhere = options.host == "0.0.0.0"  # every address of the host, loopback among them
    if cluster.address == "local":
        return "127.0.0.1" if everywhere else options.host
    [head] = [node["NodeManagerAddress"] for node in ray.nodes() if HEAD_RESOURCE in node["Resources"]]
    if head == ray.util.get_node_ip_address():
        require_free_port(options.host, options.port)
        return "127.0.0.1" if everywhere else options.host
    if options.host.startswith("127."):
        raise NotReachable(
            f"the service would listen on {options.host} of the cluster's head {head}, where nobody here reaches it: serve "
            f"with --host 0.0.0.0 (and a key in {API_KEY_VARIABLE}), or start it on the head"
        )
    return head if everywhere else options.host


def _serve_runs() -> bool:
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def llm_config(content: ModelContent, name: str, options: Serving) -> LLMConfig:
    """What Ray Serve LLM and vLLM are told."""
    engine: dict[str, Any] = {
        "dtype": options.dtype,
        "max_num_seqs": options.concurrent_requests,
        "trust_remote_code": options.trust_remote_code,
    }
    if options.max_model_len is not None:
        engine["max_model_len"] = options.max_model_len
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    environment |= preload_environment()
    if options.device == "cpu":
        threads = options.threads_per_replica or max(1, (os.cpu_count() or 1) // options.max_replicas)
        engine["enforce_eager"] = True  # torch.compile costs a minute at start and needs a C++ compiler
        # Ray would give the engine one thread, as it reserves one CPU; vLLM would bind threads to cores others use.
        environment |= {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(options.kv_cache_gib)
    else:
        engine["tensor_parallel_size"] = options.gpus_per_replica
    return LLMConfig(
        model_loading_config={"model_id": name, "model_source": content.root.replace("s3://", "/s3/")},
        # Ray's models build the nested configs from dicts; their annotations do not say so.
        callback_config=cast(Any, {"callback_class": MirrorBeforeEngine, "callback_kwargs": {"content": content}}),
        accelerator_config=cast(Any, {"kind": options.device}),
        engine_kwargs=engine,
        deployment_config={
            "logging_config": {"log_level": "WARNING"},
            # Both are 1e9 by default, which never scales up and queues without end inside the engine.
            "max_ongoing_requests": 2 * options.concurrent_requests,
            "max_queued_requests": options.queued_requests,
            "autoscaling_config": {
                "min_replicas": options.min_replicas,
                "max_replicas": options.max_replicas,
                "target_ongoing_requests": options.concurrent_requests,
            },
        },
        runtime_env={"env_vars": environment},
        experimental_configs={"stream_batching_interval_ms": 0},  # 50 by default: tokens arrive in bursts
    )


def _bring_up(application: Application) -> None:
    """Returns when all replicas are healthy. Raises ServiceFailed at the first replica that does not start.

    Serve itself would try again for many minutes; what a replica cannot do once (weights, memory, settings) it cannot do
    the third time either.
    """
    target = serve.RunTarget(application, name=APPLICATION, route_prefix="/")
    serve.run_many([target], wait_for_applications_running=False)
    deadline = time.monotonic() + START_TIMEOUT_S
    while (status := serve.status().applications[APPLICATION]).status != ApplicationStatus.RUNNING:
        reasons = [
            f"{name}: {_last_error(each.message)}"
            for name, each in status.deployments.items()
            if REPLICA_FAILED in each.message
        ]
        if reasons or status.status == ApplicationStatus.DEPLOY_FAILED:
            raise ServiceFailed("the model could not be brought up.\n" + "\n".join(reasons or [status.message]))
        if time.monotonic() > deadline:
            raise ServiceFailed(f"the model was not up within {START_TIMEOUT_S:.0f} s: {status.message}")
        time.sleep(POLL_S)


def _last_error(message: str) -> str:
    """A message of Serve without its tracebacks: from the last line that begins with the name of an error."""
    starts = [match.start() for match in re.finditer(r"^[\w.]*(Error|Exception)\b", message, re.MULTILINE)]
    return message[starts[-1] :].strip() if starts else message


def _answer_once(endpoint: Endpoint, interface: str) -> None:
    """Raises ServiceFailed unless the model answers a request of one token."""
    question = {"messages": [{"role": "user", "content": "Hi"}]} if interface == "chat" else {"prompt": "Hi"}
    path = "chat/completions" if interface == "chat" else "completions"
    body = json.dumps({"model": endpoint.model, "max_tokens": 1, **question}).encode()
    headers = {"Content-Type": "application/json"}
    if endpoint.needs_key:
        headers["Authorization"] = f"Bearer {os.environ[API_KEY_VARIABLE]}"
    request = urllib.request.Request(f"{endpoint.url}/{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=FIRST_ANSWER_TIMEOUT_S) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        raise ServiceFailed(f"the first request was answered {error.code}: {error.read().decode()}") from error
    except OSError as error:
        raise ServiceFailed(f"the first request was not answered: {error}") from error
    if not answer.get("choices"):
        raise ServiceFailed(f"the first answer has no choices: {answer}")


@contextmanager
def _ended_processes() -> Iterator[None]:
    """Whatever this process and its children start inside the block is gone after it."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    started: list[psutil.Process] = []
    try:
        try:
            yield
        finally:
            started = [process for process in psutil.Process().children(recursive=True) if process.pid not in before]
    finally:
        _, alive = psutil.wait_procs(started, timeout=END_TIMEOUT_S)
        for process in alive:
            process.kill()  # psutil compares start times: never a stranger under a reused id
