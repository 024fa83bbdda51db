# Tierflow's commands. `make run` and `make test` set up all that they need in .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
ARGS ?=

.PHONY: help run test test-fast test-torch lint format typecheck contracts bench pictures pre-commit clean

help:  ## List the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

run: $(VENV)/.run  ## Plan, split and serve samples/resnet18.yaml on this machine (ARGS="--help" lists the options)
	@$(BIN)/tierflow run samples/resnet18.yaml $(ARGS)

test: lint typecheck contracts  ## Lint, type check, import contracts and all tests
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: $(VENV)/.dev  ## Only the tests that take seconds
	@$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-torch: $(VENV)/.torch  ## The tests of `tierflow export`, with torch (a large download)
	@$(BIN)/python -m pytest -m torch $(PYTEST_ARGS)

lint: $(VENV)/.dev  ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.dev  ## Format the code and mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

typecheck: $(VENV)/.dev  ## Check the types
	@$(BIN)/mypy

contracts: $(VENV)/.dev  ## Check that the packages import each other only as ARCHITECTURE.md says
	@$(BIN)/lint-imports --no-cache

bench: $(VENV)/.dev  ## Measure the figures of the README; writes build/bench.json (ARGS="partition worker" for some)
	@$(BIN)/python -m benchmarks $(ARGS)

pictures: $(VENV)/.run  ## Draw docs/resnet18.svg again
	@$(BIN)/tierflow plan samples/resnet18.yaml --picture docs/resnet18.svg

pre-commit: $(VENV)/.dev  ## Have git run the checks before each commit
	@$(BIN)/pre-commit install

clean:  ## Remove what the commands above made in this folder
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# One stamp per set of extras, older than pyproject.toml when that has changed.
$(VENV)/bin/python:
	@[ -n "$(PYTHON)" ] || { echo "Tierflow needs Python 3.11 or newer: install it, or set PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tierflow needs Python 3.11 or newer; $(PYTHON) is older: set PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml
	@echo "Installing Tierflow into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cli]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	@echo "Installing Tierflow and its development tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.run

$(VENV)/.torch: $(VENV)/.dev
	@echo "Installing torch into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,torch]'
	@touch $@
