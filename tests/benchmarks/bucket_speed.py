"""How fast one core makes buckets of weights, puts them into Ray's object store, and checks them again.

    python tests/benchmarks/bucket_speed.py [--buckets 8]

What `Assumptions.pack_bytes_per_s` and `open_bytes_per_s` (jobs/estimate/hardware.py) stand for: the first is one bucket packed,
hashed and put, the second one bucket hashed and opened. Bytes a second, median over buckets of 256 MiB in bf16.
Last line: {"pack_bytes_per_s": b, "open_bytes_per_s": b}.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))


def main() -> None:
    import ray
    import torch

    from cluster.weights import BUCKET_BYTES, Manifest, WireTensor, open_bucket, pack_bucket, plan_buckets

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--buckets", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = 4096
    shape = (rows, BUCKET_BYTES // 2 // rows)
    wire = [WireTensor(f"model.layers.{index}.weight", torch.bfloat16, shape) for index in range(arguments.buckets)]
    manifest = Manifest(1, plan_buckets(wire))
    weight = torch.randn(shape).bfloat16()
    packing, opening = [], []
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=(arguments.buckets + 2) * BUCKET_BYTES)
    try:
        for index, places in enumerate(manifest.buckets):
            began = time.perf_counter()
            bucket = pack_bucket(manifest, index, {places[0].name: weight})
            handle = ray.put(bucket.data)
            packing.append(BUCKET_BYTES / (time.perf_counter() - began))
            data = ray.get(handle)
            began = time.perf_counter()
            open_bucket(manifest, bucket, data)
            opening.append(BUCKET_BYTES / (time.perf_counter() - began))
            print(
                f"bucket {index}: packed and put {packing[-1] / 1e9:.2f} GB/s, opened {opening[-1] / 1e9:.1f} GB/s",
                flush=True,
            )
    finally:
        ray.shutdown()
    speeds = {"pack_bytes_per_s": statistics.median(packing), "open_bytes_per_s": statistics.median(opening)}
    print(json.dumps({name: float(f"{speed:.2g}") for name, speed in speeds.items()}))


if __name__ == "__main__":
    main()
