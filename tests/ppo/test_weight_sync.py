"""Weights arrive in a real engine whole, or not at all."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.weights import Manifest, WeightSyncFailed, digest
from jobs.ppo.probe import ProbeReading
from jobs.ppo.rollout import EngineNotReady, RolloutEngine
from tests.ppo.engine_process import EngineProcess
from tests.ppo.engine_side import (
    NATS,
    SAMPLING,
    generated,
    logprobs,
    prompts,
    reference_logprobs,
    reload_if_changed,
    sync,
    tiny_engine,
)
from tests.ppo.learner_side import Sent, train
from tests.serving.tiny_llama import write_tiny_llama
from tests.train.ranks import run_ranks

pytestmark = pytest.mark.vllm


@dataclass(frozen=True)
class World:
    engine: EngineProcess
    base: Path
    trained: Path
    """Version 3, exported."""
    sent: list[Sent]


@pytest.fixture(scope="module", params=["tied", "untied"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    base, trained = (tmp_path_factory.mktemp("models") / name for name in ("base", "trained"))
    write_tiny_llama(base, tied=request.param == "tied")
    [sent] = run_ranks(1, train, str(base), 3, str(trained))
    with tiny_engine(base) as engine:
        yield World(engine, base, trained, sent)


@pytest.fixture
def engine(world: World) -> EngineProcess:
    """At version 0, whatever the test before did to it."""
    world.engine.run(reload_if_changed)
    return world.engine


def test_the_sampler_follows_the_learner(world: World, engine: EngineProcess) -> None:
    first = world.sent[0]
    assert len(first.manifest.buckets) > 2
    assert engine.run(logprobs, first) == pytest.approx(first.probe.old_logprobs_N, abs=NATS)
    for sent in world.sent:
        reading = engine.run(sync, sent)
        assert reading.is_sure and reading.position == pytest.approx(1, abs=0.01)
        difference = (engine.run(logprobs, sent) - sent.probe.new_logprobs_N).abs().max()
        moved = (sent.probe.new_logprobs_N - sent.probe.old_logprobs_N).abs().max()
        assert difference < NATS < moved / 10
    rollouts = [rollout for group in engine.run(generated, prompts()) for rollout in group]
    assert {rollout.version for rollout in rollouts} == {3}
    for rollout in rollouts[:4]:
        expected = reference_logprobs(world.trained, rollout, SAMPLING.temperature)
        assert torch.tensor(rollout.sampler_logprobs) == pytest.approx(expected, abs=NATS)


def by_object_store(engine: RolloutEngine, sent: Sent) -> ProbeReading | None:
    import ray

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        return sync(engine, replace(sent, buckets=[replace(each, data=ray.put(each.data)) for each in sent.buckets]))
    finally:
        ray.shutdown()


@pytest.mark.cluster
def test_buckets_come_through_the_object_store_of_ray(world: World, engine: EngineProcess) -> None:
    reading = engine.run(by_object_store, world.sent[0])
    assert reading.is_sure and reading.position > 0.99


def broken(sent: Sent, how: str) -> Sent:
    middle = len(sent.buckets) // 2
    bucket, buckets = sent.buckets[middle], list(sent.buckets)
    if how == "flipped bit":
        data = bucket.data.copy()
        data[len(data) // 2] ^= 1
        buckets[middle] = replace(bucket, data=data)
    elif how == "bucket cut off":
        buckets[middle] = replace(bucket, data=bucket.data[:-64])
    elif how == "bucket lost":
        del buckets[middle]
    elif how == "bucket twice":
        buckets.insert(middle, bucket)
    elif how == "bucket of another version":
        buckets[middle] = replace(bucket, version=bucket.version - 1)
    elif how == "another bucket, well formed":
        data = np.zeros_like(bucket.data)
        buckets[middle] = replace(bucket, data=data, digest=digest(sent.manifest, middle, data))
    return replace(sent, buckets=buckets)


FAULTS = {
    "flipped bit": "bytes changed on the way",
    "bucket cut off": "were announced",
    "bucket lost": "never came",
    "bucket twice": "came twice",
    "bucket of another version": "is of version 0",
    "another bucket, well formed": "lists other buckets",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_transfer_is_caught_and_a_reload_mends_it(world: World, engine: EngineProcess, fault: str) -> None:
    sent = world.sent[0]
    with pytest.raises(WeightSyncFailed, match=FAULTS[fault]):
        engine.run(sync, broken(sent, fault))
    for asked in (generated, logprobs, sync):
        with pytest.raises(EngineNotReady, match="dirty"):
            engine.run(asked, prompts() if asked is generated else sent)
    engine.run(reload_if_changed)
    assert engine.run(logprobs, sent) == pytest.approx(sent.probe.old_logprobs_N, abs=NATS)
    engine.run(sync, sent)
    assert engine.run(logprobs, sent) == pytest.approx(sent.probe.new_logprobs_N, abs=NATS)


def changed_manifest(manifest: Manifest, how: str) -> Manifest:
    first, *rest = manifest.buckets
    if how == "missing":
        return replace(manifest, buckets=(first[1:], *rest) if len(first) > 1 else tuple(rest))
    if how == "extra":
        return replace(manifest, buckets=((*first, first[0]._replace(name="model.layers.9.extra")), *rest))
    if how == "twice":
        return replace(manifest, buckets=((*first, first[0]), *rest))
    if how == "shape":
        return replace(manifest, buckets=((first[0]._replace(shape=(1, 2)), *first[1:]), *rest))
    if how == "type":
        return replace(manifest, buckets=((first[0]._replace(dtype=torch.bfloat16), *first[1:]), *rest))
    return replace(manifest, version=0)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "missing: model.embed_tokens"),
        ("extra", "not part of the sampler's model: model.layers.9.extra"),
        ("twice", "twice: model.embed_tokens"),
        ("shape", r"is torch.float32 \[1, 2\]"),
        ("type", "is torch.bfloat16"),
        ("stale", "stale or repeated"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_touched(
    world: World, engine: EngineProcess, how: str, says: str
) -> None:
    sent = world.sent[0]
    with pytest.raises(WeightSyncFailed, match=says):
        engine.run(sync, replace(sent, manifest=changed_manifest(sent.manifest, how)))
    assert engine.run(logprobs, sent) == pytest.approx(sent.probe.old_logprobs_N, abs=NATS)


def test_a_version_is_taken_once(world: World, engine: EngineProcess) -> None:
    engine.run(sync, world.sent[1])
    for stale in (world.sent[1], world.sent[0]):
        with pytest.raises(WeightSyncFailed, match="stale or repeated"):
            engine.run(sync, stale)
    assert {rollout.version for group in engine.run(generated, prompts(2)) for rollout in group} == {2}


def begin_only(engine: RolloutEngine, sent: Sent) -> None:
    engine.start_weight_update(sent.manifest)
    for bucket in sent.buckets[:2]:
        engine.update_weights(bucket)


def test_a_sender_that_dies_in_the_middle_leaves_nothing_that_samples(world: World, engine: EngineProcess) -> None:
    sent = world.sent[0]
    engine.run(begin_only, sent)
    for asked in (generated, sync):
        with pytest.raises(EngineNotReady, match="updating"):
            engine.run(asked, prompts() if asked is generated else sent)
    engine.run(reload_if_changed)
    assert engine.run(logprobs, sent) == pytest.approx(sent.probe.old_logprobs_N, abs=NATS)
    engine.run(sync, sent)
    assert engine.run(logprobs, sent) == pytest.approx(sent.probe.new_logprobs_N, abs=NATS)


# An engine that does not do what it says

Load = Callable[[Iterator[tuple[str, Tensor]]], set[str]]


def while_loading_by(engine: RolloutEngine, replacement: Callable, call: Callable, *args: object) -> object:
    """`call(engine, *args)` while vLLM's model loads weights by `replacement(names of all parameters, its own way, weights)`."""
    worker = engine._engine._engine.model_executor.driver_worker.worker
    transfer = worker.weight_transfer_engine
    model, own = transfer.model, transfer.model.load_weights
    model.load_weights = lambda weights: replacement(transfer.parameters, own, weights)
    try:
        return call(engine, *args)
    finally:
        del model.load_weights


def nothing(parameters: frozenset[str], own: Load, weights: Iterator[tuple[str, Tensor]]) -> set[str]:
    return set()


def nothing_and_deny_it(parameters: frozenset[str], own: Load, weights: Iterator[tuple[str, Tensor]]) -> set[str]:
    """A skipped update in its worst form: every parameter is said to have been loaded."""
    return set(parameters)


def no_down_projection(parameters: frozenset[str], own: Load, weights: Iterator[tuple[str, Tensor]]) -> set[str]:
    return own((name, torch.zeros_like(each) if "down_proj" in name else each) for name, each in weights)


def not_quite(parameters: frozenset[str], own: Load, weights: Iterator[tuple[str, Tensor]]) -> set[str]:
    return own((name, each * (1 + 1e-3 * torch.rand(()))) for name, each in weights)


def raising(parameters: frozenset[str], own: Load, weights: Iterator[tuple[str, Tensor]]) -> set[str]:
    raise KeyError("no such parameter")


@pytest.mark.parametrize(
    ("fault", "says"),
    [(nothing, "as they were"), (nothing_and_deny_it, "still computes with the old weights"), (raising, "KeyError")],
)
def test_a_skipped_update_is_caught(world: World, engine: EngineProcess, fault: Callable, says: str) -> None:
    with pytest.raises(WeightSyncFailed, match=says):
        engine.run(while_loading_by, fault, sync, world.sent[0])
    with pytest.raises(EngineNotReady, match="dirty"):
        engine.run(generated, prompts())


def test_weights_of_another_model_are_caught_even_where_the_learner_stands_still(
    world: World, engine: EngineProcess
) -> None:
    with pytest.raises(WeightSyncFailed, match="nats"):
        engine.run(while_loading_by, no_down_projection, sync, world.sent[0].without_step())


def test_a_probe_must_be_long_enough(world: World, engine: EngineProcess) -> None:
    sent = world.sent[0]
    short = replace(sent.probe, sequences=sent.probe.sequences[:3], new_logprobs_N=sent.probe.new_logprobs_N[:192])
    with pytest.raises(WeightSyncFailed, match="192 tokens"):
        engine.run(sync, replace(sent, probe=short))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (nothing_and_deny_it, "canary: noise on model.layers.0"),
        (no_down_projection, "canary: noise on model.layers.0.mlp.down_proj.weight"),
        (not_quite, "canary: with its own weights sent again"),
        (nothing, "as they were"),
    ],
)
def test_the_canary_finds_an_engine_that_cannot_be_updated(engine: EngineProcess, fault: Callable, says: str) -> None:
    with pytest.raises(WeightSyncFailed, match=says):
        engine.run(while_loading_by, fault, RolloutEngine.reload)
    with pytest.raises(EngineNotReady, match="dirty"):
        engine.run(generated, prompts())


def reload_as_vllm_does_alone(engine: RolloutEngine) -> None:
    """Without packing the head again, as vLLM's own reload leaves it."""
    from jobs.ppo import transfer

    head, transfer.ParallelLMHead = transfer.ParallelLMHead, type("Nothing", (), {})
    try:
        engine.reload()
    finally:
        transfer.ParallelLMHead = head


def test_the_canary_finds_a_tied_head_that_stays_behind(world: World, engine: EngineProcess) -> None:
    if "lm_head.weight" in {tensor.name for bucket in world.sent[0].manifest.buckets for tensor in bucket}:
        engine.run(reload_as_vllm_does_alone)
        return
    with pytest.raises(WeightSyncFailed, match="the head that is tied to it"):
        engine.run(reload_as_vllm_does_alone)
