# Tierflow's commands. `make run` and `make test` set up all that they need in .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
ARGS ?=

# Images and clusters. Where no image registry is reachable, BASE_IMAGE and KIND_NODE_IMAGE name local ones.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BASE_IMAGE ?= python:3.11-slim-bookworm
KIND_NODE_IMAGE ?=
KIND_CONFIG ?= kind-config.yaml
CLUSTER ?= tierflow
# Nodes that get the images, all by default; and more arguments of helm.
WORKER_NODES ?=
OPERATOR_NODES ?=
HELM_ARGS ?=
WORKER_IMAGE := tierflow-worker:$(VERSION)
OPERATOR_IMAGE := tierflow-operator:$(VERSION)
# docker without buildx has BuildKit on, and then refuses to build.
export DOCKER_BUILDKIT ?= $(if $(shell docker buildx version 2>/dev/null),1,0)
IMAGE_ARGS = --network=host --quiet --build-arg BASE_IMAGE=$(BASE_IMAGE) --build-arg VERSION=$(VERSION) \
  --build-arg REVISION=$$(git rev-parse --short HEAD 2>/dev/null || echo unknown)

.PHONY: help run test test-fast test-torch lint format typecheck contracts bench pictures pre-commit clean \
  images image-pins kind-up kind-down e2e

help:  ## List the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

run: $(VENV)/.run  ## Plan, split and serve samples/resnet18.yaml on this machine (ARGS="--help" lists the options)
	@$(BIN)/tierflow run samples/resnet18.yaml $(ARGS)

test: lint typecheck contracts  ## Lint, type check, import contracts and all tests
	@$(BIN)/python -m pytest -m "not e2e" $(PYTEST_ARGS)

test-fast: $(VENV)/.dev  ## Only the tests that take seconds
	@$(BIN)/python -m pytest -m "not slow and not e2e" $(PYTEST_ARGS)

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

images:  ## Build the images of worker and operator, and print their sizes (BASE_IMAGE=... for another base)
	@docker build $(IMAGE_ARGS) -f worker_image/Dockerfile -t $(WORKER_IMAGE) . >/dev/null
	@docker build $(IMAGE_ARGS) -f operator/Dockerfile -t $(OPERATOR_IMAGE) . >/dev/null
	@docker image inspect -f '{{index .RepoTags 0}} {{.Size}}' $(WORKER_IMAGE) $(OPERATOR_IMAGE) | \
	  awk '{printf "%-26s %4.0f MB\n", $$1, $$2 / 1e6}'

image-pins:  ## Resolve anew what the images install
	@PYTHON=$(PYTHON) images/pin

kind-up: images  ## Make a kind cluster, with Tierflow in it as built here; on one that exists, bring Tierflow up to date
	@tools=($$($(PYTHON) tests/testbed/binaries.py kind helm)); kind=$${tools[0]} helm=$${tools[1]}; \
	$$kind get clusters 2>/dev/null | grep -qx $(CLUSTER) || \
	  $$kind create cluster --name $(CLUSTER) --config $(KIND_CONFIG) --wait 180s \
	    $(if $(KIND_NODE_IMAGE),--image $(KIND_NODE_IMAGE)); \
	$$kind load docker-image --quiet --name $(CLUSTER) $(if $(WORKER_NODES),--nodes $(WORKER_NODES)) $(WORKER_IMAGE); \
	$$kind load docker-image --quiet --name $(CLUSTER) $(if $(OPERATOR_NODES),--nodes $(OPERATOR_NODES)) $(OPERATOR_IMAGE); \
	$$helm upgrade --install tierflow charts/tierflow --kube-context kind-$(CLUSTER) \
	  --namespace tierflow-system --create-namespace --wait --timeout 180s \
	  --set-string podAnnotations.image=$$(docker image inspect -f '{{slice .Id 7 19}}' $(OPERATOR_IMAGE)) $(HELM_ARGS)

kind-down:  ## Delete the kind cluster
	@$$($(PYTHON) tests/testbed/binaries.py kind) delete cluster --name $(CLUSTER)

e2e: $(VENV)/.dev  ## The end-to-end tests, on a kind cluster of their own (CONTRIBUTING.md says what they take)
	@$(BIN)/python -m pytest -m e2e tests/e2e $(PYTEST_ARGS)

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
