# Two commands need nothing but Python 3.11+ and git: `make compare` and `make test`.
# Each builds the environment it needs in .venv, once.

PYTHON ?= python3
BIN := .venv/bin
JOBS ?= auto
ARGS ?=
RUNS = $(or $(OUT),runs)
GPU_TESTS = tests/contract/test_gpu.py tests/contract/test_gpu_overlap.py \
  tests/find/test_by_tracing.py tests/kernels/test_gpu.py tests/lab/test_gpu.py
CORE_TESTS = tests/test_*.py tests/cli tests/contract tests/distributed tests/find tests/gram \
  tests/integrations tests/kernels tests/layers tests/parity tests/statistics tests/zoo \
  tests/lab/test_cli*.py

.PHONY: compare test explore check format lint types docs tests doctests coverage bench gpu gpu-lab readme wheel release clean help

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

compare: .venv/lab ## train with and without TrAct and show the difference (ARGS="--data cifar10")
	$(BIN)/trainact compare $(ARGS)

test: .venv/dev docs tests doctests ## run the tests and build the documentation

check: MARKED := -m "not slow"
check: .venv/dev format lint types docs tests doctests ## what to run before a commit, cheap first

format: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/toml-sort --check pyproject.toml

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/python -m benchmarks.readme --check

readme: .venv/dev ## write the README's tables and plot from the records
	$(BIN)/python -m benchmarks.readme

types: .venv/dev
	$(BIN)/pyright

# One thread each: the tests already use every core, side by side. One that hangs says where.
HANGING = -o faulthandler_timeout=900 -o faulthandler_exit_on_timeout=true
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) $(HANGING) $(MARKED)
# Those of JAX have processes of their own: one with JAX in it must not fork, as others do.
tests: .venv/dev
	$(PYTEST) --ignore tests/jaxed $(ARGS)
	$(PYTEST) tests/jaxed $(ARGS)

# All parts run, whatever fails. Status 5: what ARGS names is not in that part.
explore: EXAMPLES ?= 1000
explore: DRAWN = EXAMPLES=$(EXAMPLES) OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS) -m hypothesis $(ARGS)
explore: .venv/dev ## draw new examples in the drawn tests (EXAMPLES=1000 for each)
	status=0; \
	$(DRAWN) --ignore tests/jaxed || [ $$? = 5 ] || status=1; \
	TRITON_INTERPRET=1 $(DRAWN) tests/kernels || [ $$? = 5 ] || status=1; \
	$(DRAWN) tests/jaxed || [ $$? = 5 ] || status=1; \
	exit $$status

docs: .venv/dev ## build the documentation's site in build/site, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

doctests: .venv/dev
	$(BIN)/pytest -q --doctest-modules src/trainact

# What each process saw is in a file of its own until they are put together.
coverage: .venv/dev ## which lines and branches of the core the tests reach (at least 95 %)
	$(BIN)/coverage erase
	$(PYTEST) --cov --cov-report= $(CORE_TESTS)
	$(PYTEST) --cov --cov-append --cov-report= tests/jaxed
	$(BIN)/coverage report --skip-covered --fail-under 95

bench: .venv/dev ## measure what TrAct costs on this machine (about 20 minutes)
	$(BIN)/trainact bench --suite cpu --out records/benchmarks/steps-cpu.jsonl $(ARGS)

# Within ten minutes, whatever fails: tests, then kernels, then the steps.
gpu: ## run the GPU tests and the GPU benchmarks with this machine's own torch
	export PYTHONPATH=src; status=0; \
	timeout 220 $(PYTHON) -m pytest -q -m gpu -rs $(GPU_TESTS) || status=$$?; \
	timeout 130 $(PYTHON) -m benchmarks.kernels --out $(RUNS)/kernels-gpu.jsonl || status=$$?; \
	timeout 240 $(PYTHON) -m trainact.lab.bench gpu $(RUNS)/steps-gpu.jsonl 3 || status=$$?; \
	exit $$status

# RUN: fig3, resnet18, resnet50, deit or studies; DATA: cifar10, or imagefolder:PATH. Ends within
# ten minutes; the same command goes on where it stopped.
gpu-lab: ## train one of the paper's experiments on this machine's GPU
	export PYTHONPATH=src; run=$(or $(RUN),fig3); \
	timeout 580 $(PYTHON) -m trainact.lab.gpu $$run $(or $(DATA),cifar10) $(RUNS)/$$run-gpu

wheel: .venv/dev ## build the wheel and the sdist into dist
	rm -rf dist
	$(BIN)/python -m build

release: .venv/dev ## go through the checklist of a release; publishes nothing
	$(BIN)/python -m release $(ARGS)

clean: ## remove the environment and caches
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "trainact needs Python 3.11 or newer; try make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/lab: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[lab]'
	@touch $@

.venv/dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[lab,dev,jax]'
	@touch $@ .venv/lab
