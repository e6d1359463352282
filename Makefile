# Everything runs in .venv, made from pyproject.toml; the same targets run in CI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check bench e2e fmt generate clean

help: ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module: apt-get install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)

demo: $(READY) ## replay a real server's metrics and show what the sidecar makes of them (DEMO_SECONDS=N ends it)
	@$(BIN)/python tests/demo.py

test: $(READY) ## unit, replay and failure tests
	@$(BIN)/pytest -q -m "not e2e"

e2e: $(READY) ## the real program against real Prometheus
	@$(BIN)/pytest -q -m e2e

check: $(READY) ## format, lint, types, generated files
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/vllm-sidecar generate --check

bench: $(READY) ## cost beside prometheus_client and beside Prometheus
	@$(BIN)/python tests/bench/bench_cycle.py
	@$(BIN)/python tests/bench/bench_process.py

fmt: $(READY) ## format and fix what can be fixed
	@$(BIN)/ruff check --fix --exit-zero --quiet .
	@$(BIN)/ruff format .

generate: $(READY) ## write the generated parts of the documents
	@$(BIN)/vllm-sidecar generate

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
