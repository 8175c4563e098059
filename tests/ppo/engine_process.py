"""A RolloutEngine in a process of its own: vLLM patches torch's threads and claims torch.distributed, a test run keeps both."""

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from jobs.ppo.rollout import RolloutEngine
from jobs.ppo.vllm_engine import EngineSpec

START_TIMEOUT_S = 180.0
"""The import alone takes 11 s of a free core."""
CALL_TIMEOUT_S = 120.0
END_TIMEOUT_S = 20.0


class EngineProcess:
    """Runs functions beside the engine: `run(function, *args)` is `function(engine, *args)` over there."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(self, function: Callable[..., Any], *args: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """What the function returns. What it raises is raised here."""
        self._connection.send((function, args))
        return _answer(self._connection, timeout_s)


@contextmanager
def engine_process(spec: EngineSpec, version: int = 0) -> Iterator[EngineProcess]:
    """An engine for the time of the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(spec, version, theirs))
    process.start()
    try:
        _answer(ours, START_TIMEOUT_S)
        yield EngineProcess(ours)
    finally:
        ours.close()  # its loop ends
        process.join(END_TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()


def _answer(connection: Connection, timeout_s: float) -> Any:
    assert connection.poll(timeout_s), f"the engine did not answer within {timeout_s} s"
    result, error, trace = connection.recv()
    if error is not None:
        error.add_note(trace)
        raise error
    return result


def _serve(spec: EngineSpec, version: int, connection: Connection) -> None:
    engine = _reply(connection, lambda: RolloutEngine(spec, version), keep=True)
    try:
        while True:
            function, args = connection.recv()
            _reply(connection, lambda function=function, args=args: function(engine, *args))
    except EOFError:
        engine.close()


def _reply(connection: Connection, call: Callable[[], Any], keep: bool = False) -> Any:
    try:
        result = call()
    except Exception as error:  # noqa: BLE001 - whatever a test's function raises belongs to the test
        connection.send((None, error, traceback.format_exc()))
        return None
    connection.send((None if keep else result, None, ""))
    return result
