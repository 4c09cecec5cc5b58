# `make` alone lists the targets. Everything they make is in .venv, .tools and the results folder.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON := .venv/bin/python
# `make test` is the quick tier, side by side; CI adds the images and the real Slurm. A file stays with one worker, for its tests share
# what its commands left.
WORKERS ?= $(shell nproc)
QUICK := $(PYTHON) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
SYSTEM := $(PYTHON) -m pytest --dist loadfile --no-loadscope-reorder
ARGS ?=
# The tests start the program some two hundred times, and would wait for it to be compiled each time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup torch2 bench test unit check validate lock base image sif sign sbom clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Python 3.9, the locked environment in .venv, the allocator packages; fast if they are there
	@scripts/setup.sh

torch2: setup  ## the newest PyTorch in .venv-torch2, for launch.python=.venv-torch2/bin/python; prints its size first
	@scripts/torch2.sh

bench: setup  ## train the 124M GPT under glibc and tcmalloc and compare, in about a quarter of an hour (ARGS='more overrides')
	@./mallocost +experiment=tcmalloc $(ARGS)

test:  ## the tests: unit and integration, side by side on all cores (WORKERS=N); then images and Slurm too, when CI=true
	@scripts/setup.sh dev
	@$(QUICK) tests/unit $(ARGS)
	@# Integration tests have limits on time, which builds of images beside them would break (.ci/run).
	@if [[ -n $${BENCH_TEST_BUILDS:-} ]]; then timeout 1200 bash -c 'until [[ -e $$0/code ]]; do sleep 1; done' "$$BENCH_TEST_BUILDS"; fi
	@$(QUICK) tests/integration $(ARGS)
	@# Two workers, each with hosts of its own (namespaces): a command here is one process at a time, and much of it is waiting. Where
	@# the images are not there yet, one worker, or both would build them.
	@if [[ $${CI:-} == true ]]; then $(SYSTEM) $${BENCH_TEST_BUILDS:+-n 2} tests/system $(ARGS); fi

unit:  ## the unit tests alone, side by side: what to run while one writes
	@scripts/setup.sh dev
	@$(QUICK) tests/unit $(ARGS)

check:  ## lint, types, imports and language: ruff, mypy, import-linter, tests/unit/test_docs.py, and shellcheck where it is installed
	@scripts/setup.sh dev
	@$(PYTHON) -m ruff check --output-format concise .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports --no-cache
	@$(PYTHON) -m pytest -q tests/unit/test_docs.py
	@if command -v shellcheck >/dev/null; then git ls-files -z -co --exclude-standard '*.sh' .ci/run | xargs -0r shellcheck; \
	 else echo "shellcheck is not installed: the shell scripts were not checked"; fi

validate:  ## the goals that need no quiet machine: the FLOPs formula and the coverage of the intervals
	@scripts/setup.sh
	@$(PYTHON) -m validation quick

lock:  ## write the lock files again from requirements.in and requirements-dev.in
	@scripts/setup.sh dev
	@for name in requirements requirements-dev; do \
	   $(PYTHON) -m uv pip compile -q --upgrade --python $(PYTHON) --generate-hashes --no-header --no-emit-index-url $$name.in -o $$name.lock; \
	 done
	@for name in requirements-mimalloc requirements-torch2; do \
	   $(PYTHON) -m uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	      $$(test $$name = requirements-torch2 || echo --no-deps) $$name.in -o $$name.lock; \
	 done

base:  ## the stand-in for the public base image, where no image registry answers (SUITE=trixie or sid: of that Debian release)
	@scripts/images.sh base

image:  ## the Docker image (SUITE=trixie or sid: bench:trixie or bench:sid, on that Debian release)
	@scripts/images.sh image

sif:  ## the Apptainer image, bench.sif (SUITE: bench-trixie.sif)
	@scripts/images.sh sif

sign:  ## sign bench.sif with the key of .tools/keys, made at the first call, and verify it
	@scripts/images.sh sign

sbom:  ## the bill of materials of the Docker image (CycloneDX)
	@scripts/setup.sh
	@scripts/images.sh sbom

clean:  ## remove the environment, the tools and all caches; results stay
	@rm -rf .venv .venv.new .venv-torch2 .tools .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
