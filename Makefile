# the verbs of the house: each does the set-up it needs, and continuous integration calls the same ones
PYTHON ?= python3
VENV ?= .venv
# passed to every pip install; README.md, "Set-up", says what it is good for
PIP_ARGS ?=
# passed on by the verb that has a command of its own: make test PYTEST_ARGS="-k voxelize", make bench ARGS=--help
PYTEST_ARGS ?=
ARGS ?=
# one process a core, with one thread each: most tests are too small to share their work; those that are about
# threads ask for them. A file's tests stay in one process, as some of them share what they made
TESTING = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile
# most of its time kernels are compiled for the device, by one core each; every process takes memory of the device
TESTING_GPU = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 16 --dist worksteal
# nothing else knows where the real samples are
PCSPARSE_REAL_DATA ?= $(abspath $(wildcard ../shared/data))
export PCSPARSE_REAL_DATA PIP_ARGS
# where it is set, every process that a test starts compiles the package again
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
STAMP := $(VENV)/pcsparse-setup

.DEFAULT_GOAL := help
.PHONY: help demo setup test test-slow test-gpu lint type bench docs

help: ## list the verbs (what a bare `make` does)
	@echo "usage: make VERB [PYTHON=python3.11] [PIP_ARGS=...] [PYTEST_ARGS=...] [ARGS=...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP) ## a simulated town, a short training run, evaluation, and pictures of segmented sweeps
	@echo "== demo: simulate, train, evaluate, segment"
	@$(BIN)/python -m pcsparse.programs.demo $(ARGS)

setup: $(STAMP) ## the virtual environment with everything in it
	@echo "== setup: $(VENV) is ready"

test: $(STAMP) ## the tests that need neither a GPU nor patience
	@echo "== test: everything except slow and gpu"
	@$(TESTING) -m "not slow and not gpu" $(PYTEST_ARGS)

# one process: some watch threads, memory or the clock
test-slow: $(STAMP) ## the tests that take longer than 10 s each, one after the other; fetches Chromium where it is missing
	@echo "== test-slow: only what is marked slow, with the seconds of each"
	@.ci/browser
	@$(BIN)/python -m pytest -m slow -v --durations=0 --durations-min=1 $(PYTEST_ARGS)

test-gpu: $(STAMP) ## the tests that touch a device, on a CUDA device; installs the cupy of torch's CUDA where it is missing
	@echo "== test-gpu: the tests that touch a device, with --device cuda"
	@.ci/gpu "$(VENV)"
	@$(TESTING_GPU) -m "not slow" --device cuda $(PYTEST_ARGS)

lint: $(STAMP) ## ruff, its formatter, and the direction of imports
	@echo "== lint: ruff check, ruff format --check, lint-imports"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

type: $(STAMP) ## mypy, strict
	@echo "== type: mypy on the package"
	@$(BIN)/mypy

bench: $(STAMP) ## verify maps, layers and networks against their twins, then time them
	@echo "== bench: maps, layers and networks, each verified before it is timed"
	@$(BIN)/python -m pcsparse.cli bench $(ARGS)

docs: $(STAMP) ## run what README.md shows, and look up every name and link in the documents
	@echo "== docs: README blocks, names and links"
	@$(BIN)/python -m pytest tests/test_readme.py $(PYTEST_ARGS)

$(STAMP): pyproject.toml constraints.txt .ci/setup
	@.ci/setup "$(VENV)" "$(PYTHON)"
	@touch $@
