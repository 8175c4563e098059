"""What the demo's training gains, net of a placebo with the same steps and tokens on general text.

    python tests/benchmarks/cpt_gain.py

Runs tests/benchmarks/cpt_gain.yaml (finished stages are reused) and prints ratios of held-out numbers as its last line:

    domain_vs_placebo      perplexity on held-out PubMed after CPT over after the placebo     wanted <= 0.95
    general_vs_before      perplexity on held-out general text after CPT over before          wanted <= 1.03
    conclusion_vs_before   loss of held-out conclusions after SFT over before                 wanted <= 0.90
"""

import json
import subprocess
import sys
from pathlib import Path

from cluster.artifacts import find_named
from cluster.storage import open_store

CHECKOUT = Path(__file__).parents[2]


def main() -> None:
    subprocess.run(
        [sys.executable, "-m", "jobs.cli", "run", "tests/benchmarks/cpt_gain.yaml", "--yes"], cwd=CHECKOUT, check=True
    )
    scores = find_named(open_store(str(CHECKOUT / "artifacts")), "gain").content.read_json("evaluation.json")["scores"]
    ratios = {
        "domain_vs_placebo": scores["cpt"]["pubmed"]["perplexity"] / scores["placebo"]["pubmed"]["perplexity"],
        "general_vs_before": scores["cpt"]["general"]["perplexity"] / scores["base"]["general"]["perplexity"],
        "conclusion_vs_before": scores["sft"]["conclusion"]["loss"] / scores["base"]["conclusion"]["loss"],
    }
    print(json.dumps({name: round(ratio, 4) for name, ratio in ratios.items()}))


if __name__ == "__main__":
    main()
