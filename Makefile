# Everything runs in .venv, made from pyproject.toml; the same targets run in CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check audit bench e2e e2e-all gpu fmt generate pins clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one, as in: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv is missing: apt-get install python3-venv" >&2; exit 1; }
	@echo "making $(VENV), which takes a minute the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]' || { echo "packages could not be installed: is there a network, or an index for PIP_INDEX_URL?" >&2; exit 1; }
	@touch $(READY)

demo: $(READY) ## a simulated vLLM gets into trouble and pages (SCENARIO=stall picks another, DEMO_SECONDS=N ends it)
	@SCENARIO='$(SCENARIO)' DEMO_SECONDS='$(DEMO_SECONDS)' $(BIN)/python tests/demo

# A worker that has nothing left takes tests from the other: modules stay together until the end, and no core idles.
PARALLEL := --numprocesses=auto --dist=worksteal

test: $(READY) ## unit, replay and failure tests, in parallel: minutes
	@$(BIN)/pytest -q $(PARALLEL) -m "not slow and not e2e"

test-all: $(READY) ## what test leaves out: mutants, scenarios, a week, properties with many examples (PART=K/N for a part)
	@$(BIN)/pytest -q $(PARALLEL) --timeout=1800 --part=$(or $(PART),1/1) --hypothesis-profile=all -m "(slow or hypothesis) and not e2e"

# Most of the time they wait, so there are more workers than cores; files stay together, for they share programs.
E2E := --numprocesses=5 --dist=loadfile --no-loadscope-reorder --timeout=1800

e2e: $(READY) ## the real program against real Prometheus, Alertmanager, VictoriaMetrics and a browser
	@$(BIN)/pytest -q $(E2E) -m "e2e and not slow"

e2e-all: $(READY) ## the same with every scenario
	@$(BIN)/pytest -q $(E2E) -m e2e

gpu: $(READY) ## the program beside a CUDA load, on a machine with an NVIDIA GPU
	@$(BIN)/python tests/hardware

check: $(READY) ## format, lint, types, layers, generated files, words
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/vllm-sidecar generate --check
	@$(BIN)/python tests/support/vocabulary.py

audit: $(READY) ## compare the pinned dependencies of the image and the build with the known vulnerabilities
	@$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement deploy/requirements.txt --requirement deploy/requirements-build.txt

bench: $(READY) ## cost beside prometheus_client and Prometheus, accuracy beside histogram_quantile
	@set -e; for script in tests/bench/bench_*.py; do echo "== $$script"; $(BIN)/python $$script; done

fmt: $(READY) ## format and fix what can be fixed
	@$(BIN)/ruff check --fix --exit-zero --quiet .
	@$(BIN)/ruff format .

generate: $(READY) ## write rules, dashboards and the generated parts of the documents
	@$(BIN)/vllm-sidecar generate

pins: $(READY) ## pin the dependencies of the image and of the build, with hashes
	@set -e; python=$$(sed -n 's/^FROM python:\(3\.[0-9]*\)\..*/\1/p' exporter/Dockerfile | head -n 1); \
	pin() { $(BIN)/uv pip compile --quiet --upgrade --generate-hashes --python-version "$$python" --python-platform linux --custom-compile-command 'make pins' "$$1" --output-file "$$2" $$3 $$4; }; \
	pin pyproject.toml deploy/requirements.txt --extra otlp; \
	pin deploy/requirements-build.in deploy/requirements-build.txt

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .demo build dist
