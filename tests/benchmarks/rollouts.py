"""Rollouts and weight syncs of a RolloutEngine, against bare vLLM in the same run.

    python tests/benchmarks/rollouts.py [--model artifacts/assets/smollm2-135m-instruct] [--prompts 32] [--answers 2] [--rounds 3]

Prompts are the beginnings of real abstracts, all answers have the same length. Bare vLLM is `LLM.generate` of the same engine
with the same requests, seeds and log-probabilities, in turn with ours (A B A B); `unseeded` is what it does without either. The
syncs bring three versions in buckets of 256 MiB from a learner in another process. Seconds are medians. Last line:
{"rollout_vs_bare_vllm": r, "weight_sync_s": s, "probe_s": s, ...}.
"""

import argparse
import gzip
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402 - the checkout is not on a script's path

from cluster.storage import open_store  # noqa: E402
from configs.schema.training import Optimizer  # noqa: E402
from jobs.ppo.probe import Probe  # noqa: E402
from jobs.ppo.rollout import RolloutEngine  # noqa: E402
from jobs.ppo.vllm_engine import EngineSpec  # noqa: E402
from jobs.records import PackedRow, PromptRequest, Sampling  # noqa: E402
from jobs.train.batch import pack_rows  # noqa: E402
from jobs.train.broadcast import announce_weights, weight_buckets  # noqa: E402
from jobs.train.fsdp import build_mesh  # noqa: E402
from jobs.train.learner import Learner, LearnerSpec  # noqa: E402
from jobs.train.objectives.lm import next_token_loss  # noqa: E402
from tests.ppo.engine_process import EngineProcess, engine_process  # noqa: E402
from tests.ppo.learner_side import Sent, learner_logprobs  # noqa: E402
from tests.train.ranks import run_ranks  # noqa: E402

ABSTRACTS = ROOT / "artifacts" / "assets" / "pubmed" / "pubmed21n1298.xml.gz"
PROBE_SEQUENCES, PROBE_LENGTH = 17, 128
VERSIONS, RATE = 3, 1e-6
"""1e-6 is a usual rate of PPO: a step that a probe in bf16 hardly sees."""
CALL_S = 900.0


def abstracts(model: str) -> list[list[int]]:
    """Token ids of real texts, each of at least PROBE_LENGTH tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    with gzip.open(ABSTRACTS, "rt") as file:
        texts = re.findall(r"<AbstractText>([^<]{900,1500})</AbstractText>", file.read(20_000_000))
    tokens = [tokenizer.encode(text) for text in texts]
    return [ids for ids in tokens if len(ids) >= PROBE_LENGTH]


def send(model: str, sequences: tuple[tuple[int, ...], ...]) -> tuple[list[Sent], dict[str, list[float]]]:
    """Three versions of a bf16 learner, and the seconds they took it."""
    torch.set_num_threads(2)
    learner = Learner(LearnerSpec(open_store(model), "bf16", Optimizer(learning_rate=RATE)), build_mesh(1))
    learner.load()
    seconds: dict[str, list[float]] = {"learner_probe_s": [], "pack_s": []}
    ids = list(sequences[0])
    batch = pack_rows([PackedRow(ids, [0.0] + [1.0] * (len(ids) - 1), [len(ids)], [0])])
    old = learner_logprobs(learner, sequences)
    sent: list[Sent] = []
    for version in range(1, VERSIONS + 1):
        sums = learner.forward_backward([batch], partial(next_token_loss, denominator=float(len(ids) - 1)))
        learner.step(RATE, sums)
        start = time.perf_counter()
        manifest = announce_weights(learner, version, torch.bfloat16)
        buckets = list(weight_buckets(learner, manifest))
        seconds["pack_s"].append(time.perf_counter() - start)
        start = time.perf_counter()
        new = learner_logprobs(learner, sequences)
        seconds["learner_probe_s"].append(time.perf_counter() - start)
        sent.append(Sent(manifest, buckets, Probe(sequences, new, old), [bucket.digest for bucket in buckets]))
        old = new
    return sent, seconds


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def sync(engine: RolloutEngine, sent: Sent) -> dict[str, float]:
    """Seconds of one sync: everything up to the probe, and the probe."""

    def transfer() -> None:
        engine.start_weight_update(sent.manifest)
        for bucket in sent.buckets:
            engine.update_weights(bucket)

    load_s, _ = timed(transfer)
    finish_s, reading = timed(lambda: engine.finish_weight_update(sent.digests, sent.probe))
    again_s, _ = timed(lambda: engine.logprobs(sent.probe.sequences))
    assert reading is not None
    return {
        "weight_sync_s": load_s + finish_s - again_s, "probe_s": again_s, "mismatch": reading.mismatch,
        "position": reading.position, "standard_errors": reading.standard_errors,
    }  # fmt: skip


def ours(engine: RolloutEngine, requests: list[PromptRequest], sampling: Sampling) -> tuple[float, list[list[int]]]:
    """Seconds, and the answers in the order of the requests."""
    seconds, groups = timed(lambda: list(engine.generate(requests, sampling)))
    by_id = {group[0].prompt_id: [rollout.answer_ids for rollout in group] for group in groups}
    return seconds, [ids for request in requests for ids in by_id[request.prompt_id]]


def bare(
    engine: RolloutEngine, requests: list[PromptRequest], sampling: Sampling, seeded: bool
) -> tuple[float, list[list[int]]]:
    """The same by `LLM.generate`."""
    from vllm import SamplingParams

    llm = engine._engine._llm
    prompts, parameters = [], []
    for request in requests:
        for seed in request.seeds:
            prompts.append({"prompt_token_ids": request.prompt_ids})
            parameters.append(
                SamplingParams(
                    temperature=sampling.temperature, max_tokens=sampling.max_new_tokens, ignore_eos=True,
                    detokenize=False, seed=seed if seeded else None, logprobs=0 if seeded else None,
                )
            )  # fmt: skip
    llm.reset_prefix_cache()
    seconds, outputs = timed(lambda: llm.generate(prompts, parameters, use_tqdm=False))
    return seconds, [list(output.outputs[0].token_ids) for output in outputs]


def generation(
    engine: EngineProcess, requests: list[PromptRequest], sampling: Sampling, rounds: int
) -> dict[str, float]:
    """Tokens a second, and their ratio to bare vLLM."""
    tokens = sampling.max_new_tokens * sum(len(request.seeds) for request in requests)
    seconds: dict[str, list[float]] = {"ours": [], "bare": [], "unseeded": []}
    for number in range(rounds + 1):
        ours_s, ours_ids = engine.run(ours, requests, sampling, timeout_s=CALL_S)
        bare_s, bare_ids = engine.run(bare, requests, sampling, True, timeout_s=CALL_S)
        unseeded_s, _ = engine.run(bare, requests, sampling, False, timeout_s=CALL_S)
        assert ours_ids == bare_ids, "the same requests must give the same tokens"
        if number:  # the first round warms up
            for name, value in (("ours", ours_s), ("bare", bare_s), ("unseeded", unseeded_s)):
                seconds[name].append(value)
        print(f"round {number}: ours {ours_s:.2f} s, bare {bare_s:.2f} s, bare unseeded {unseeded_s:.2f} s", flush=True)
    rate = {name: tokens / statistics.median(values) for name, values in seconds.items()}
    ratios = [bare_s / ours_s for bare_s, ours_s in zip(seconds["bare"], seconds["ours"], strict=True)]
    return {
        "rollout_vs_bare_vllm": statistics.median(ratios), "rollout_tokens_per_s": rate["ours"],
        "bare_tokens_per_s": rate["bare"], "unseeded_tokens_per_s": rate["unseeded"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "artifacts" / "assets" / "smollm2-135m-instruct"))
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--answers", type=int, default=2)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    texts = abstracts(options.model)
    sequences = tuple(tuple(ids[:PROBE_LENGTH]) for ids in texts[:PROBE_SEQUENCES])
    [(sent, seconds)] = run_ranks(1, send, options.model, sequences)
    requests = [
        PromptRequest(index, ids[: 24 + index % 41], [100 * index + sample for sample in range(options.answers)])
        for index, ids in enumerate(texts[PROBE_SEQUENCES : PROBE_SEQUENCES + options.prompts])
    ]
    sampling = Sampling(temperature=1.0, max_new_tokens=options.new_tokens, end_ids=())
    spec = EngineSpec(open_store(options.model), "bfloat16", 512, 1.0, max_num_seqs=64, threads=2)
    with engine_process(spec) as engine:
        for version in sent:
            reading = engine.run(sync, version)
            print(f"version {version.manifest.version}: " + ", ".join(f"{k} {v:.4g}" for k, v in reading.items()))
            for name, value in reading.items():
                seconds.setdefault(name, []).append(value)
        result = generation(engine, requests, sampling, options.rounds)
        result["reload_and_canary_s"], _ = timed(lambda: engine.run(RolloutEngine.reload))
    result |= {name: statistics.median(values) for name, values in seconds.items()}
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
