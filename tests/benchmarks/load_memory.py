"""Peak memory of a rank while it loads a model, over what it must hold: its share of the fp32 weights, and one group.

    python tests/benchmarks/load_memory.py --model DIR [--ranks 1 2 4]

The peak is the kernel's (VmHWM) above the resident size once everything is imported and the process group stands. The
allowance is 1.2 x (fp32 model / ranks + largest group in fp32). Moments of AdamW are allocated at the first
step, not while loading. Last line: {"ranks": peak / (model / ranks + largest group)}.
"""

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.side_by_side import memory_bytes  # noqa: E402 - the checkout is not on a script's path

ALLOWANCE = 1.2


def load(rank: int, ranks: int, model: str, scratch: str) -> None:
    """One rank: import everything, note the baseline, load, write down the peak."""
    import torch
    import torch.distributed as dist
    import transformers

    from cluster.storage import open_store
    from configs.schema.training import Optimizer
    from jobs.train.fsdp import build_mesh, set_threads
    from jobs.train.learner import Learner, LearnerSpec

    set_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{scratch}/rendezvous", rank=rank, world_size=ranks)
    mesh = build_mesh(ranks)
    # The class is imported when it is first asked for; it belongs to the baseline.
    config = transformers.AutoConfig.from_pretrained(model)
    assert type(config) in transformers.AutoModelForCausalLM._model_mapping, config.model_type
    with torch.device("meta"):
        transformers.AutoModelForCausalLM.from_config(config)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present size
    baseline = memory_bytes("VmRSS")
    learner = Learner(LearnerSpec(open_store(model), "bf16", Optimizer()), mesh)
    learner.load()
    peak = memory_bytes("VmHWM") - baseline
    groups: dict[str, int] = {}
    for name, rows in learner.sharded.rows.items():
        group = ".".join(name.split(".")[:3]) if ".layers." in name else "root"
        groups[group] = groups.get(group, 0) + 4 * math.prod(rows.full_shape)
    needed = sum(groups.values()) / ranks + max(groups.values())
    Path(scratch, f"{rank}.json").write_text(json.dumps({"peak": peak, "needed": needed}))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    import torch.multiprocessing as multiprocessing

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "artifacts/assets/smollm2-135m-instruct"))
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    ratios: dict[str, float] = {}
    for ranks in arguments.ranks:
        with tempfile.TemporaryDirectory() as scratch:
            multiprocessing.start_processes(load, (ranks, arguments.model, scratch), nprocs=ranks, start_method="spawn")
            results = [json.loads(Path(scratch, f"{rank}.json").read_text()) for rank in range(ranks)]
        worst = max(results, key=lambda result: result["peak"])
        ratios[str(ranks)] = round(worst["peak"] / worst["needed"], 3)
        mib = {name: f"{value / 2**20:.0f} MiB" for name, value in worst.items()}
        verdict = "within" if ratios[str(ranks)] <= ALLOWANCE else "ABOVE"
        print(f"{ranks} ranks: peak {mib['peak']}, must hold {mib['needed']}, {verdict} {ALLOWANCE}", flush=True)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
