# SPDX-License-Identifier: Apache-2.0
# Every target makes the environment it needs; a change of pyproject.toml brings it up to date.
#   make demo [MODEL=path]    the embedded network, or a model of yours, on the simulated device
#   make test [TESTS=path]    lint, types, tests          make test-full   the exhaustive form
#   make bench [MODEL=path]   speed beside other runtimes make docs        rewrite generated pages
# PYTHON=path chooses the interpreter, PYTEST_ARGS what pytest gets beside its configuration.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Small matrices: threads of the BLAS wait for each other longer than they compute.
export OPENBLAS_NUM_THREADS ?= 1
MAKEFLAGS += --no-builtin-rules --no-print-directory

comma := ,
# $(call find_python,names,condition): the first of the names that holds and can make environments.
find_python = $(shell for name in $(1); do "$$name" -c 'import ensurepip, sys, venv; \
	print(sys.executable) if $(2) else sys.exit(1)' 2>/dev/null && break; done)
PYTHON := $(or $(PYTHON),$(call find_python,python3 python3.13 python3.12 python3.11,\
	sys.version_info >= (3$(comma) 11)))
# The last tflite-runtime has wheels for this interpreter on Linux only.
PYTHON311 := $(or $(PYTHON311),$(call find_python,python3.11 python3,\
	sys.version_info[:2] == (3$(comma) 11) and sys.platform == "linux"))

PYTEST_ARGS ?= -n auto --dist worksteal
TESTS ?= tests
PIP := -m pip install -qq --disable-pip-version-check

# $(call stage,name,command): says what runs, and how long it took.
define stage
@echo "== $(1)"; start=$$SECONDS; { $(2); } || exit 1; echo "== $(1): $$((SECONDS - start)) s"
endef

# $(call environment,folder,interpreter): keeps one that works.
environment = { $(1)/bin/python -m pip --version >/dev/null 2>&1 || "$(2)" -m venv --clear $(1); }

.PHONY: help demo test test-full bench docs lint types unit full tflite-runtime coverage clean

help:
	@sed -n '3,6s/^# *//p' Makefile

.venv/made:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer with the venv module found;" \
		"install one (Debian: python3-venv), or name one: make PYTHON=path" >&2; exit 1; }
	$(call stage,make .venv with $(PYTHON),$(call environment,.venv,$(PYTHON)) && touch $@)

.venv/installed: .venv/made pyproject.toml
	$(call stage,install,.venv/bin/python $(PIP) -e . && touch $@)

.venv/installed-test: .venv/made pyproject.toml
	$(call stage,install for tests,.venv/bin/python $(PIP) -e '.[test$(comma)litert$(comma)onnxruntime]' \
		&& touch $@ .venv/installed)

.venv-tflite/installed: pyproject.toml
	$(call stage,make .venv-tflite with $(PYTHON311),$(call environment,.venv-tflite,$(PYTHON311)) \
		&& .venv-tflite/bin/python $(PIP) -e '.[test$(comma)tflite-runtime]' && touch $@)

demo: .venv/installed
	@.venv/bin/akida-backend demo $(if $(MODEL),"$(MODEL)")

test: lint types unit

test-full: lint types full tflite-runtime

lint: .venv/installed-test
	$(call stage,ruff,.venv/bin/ruff check . && .venv/bin/ruff format --check .)

types: .venv/installed-test
	$(call stage,mypy,.venv/bin/mypy)

unit: .venv/installed-test
	$(call stage,pytest,.venv/bin/pytest $(PYTEST_ARGS) $(TESTS))

full: .venv/installed-test
	$(call stage,pytest in full,.venv/bin/pytest $(PYTEST_ARGS) -m "not tflite_runtime" $(TESTS))

ifeq ($(PYTHON311),)
tflite-runtime:
	@echo "== tests with tflite-runtime: left out, they need Python 3.11 on Linux"
else
tflite-runtime: .venv-tflite/installed
	$(call stage,tests with tflite-runtime,.venv-tflite/bin/pytest -m tflite_runtime $(TESTS))
endif

coverage: .venv/installed-test
	$(call stage,coverage,.venv/bin/coverage run -m pytest $(TESTS) && .venv/bin/coverage report)

bench: .venv/installed-test
	@.venv/bin/python tools/benchmark.py $(if $(MODEL),"$(MODEL)")

docs: .venv/installed-test
	@.venv/bin/python tools/write_docs.py

clean:
	rm -rf .venv .venv-tflite build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find akida_backend importers ops tests tools -name __pycache__ -prune -exec rm -rf {} +
