# SPDX-License-Identifier: Apache-2.0
# Every target makes the environment it needs, and brings it up to date after a change of
# pyproject.toml or of the native engine, which is built by installing.
#   make demo [MODEL=path]    the embedded network, or a model of yours, on the simulated device
#   make test [TESTS=path]    lint, types, tests          make test-full   the exhaustive form
#   make test-matrix          the execution provider with other releases of onnxruntime
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

# The native engine is built by the installation.
NATIVE := $(shell find akida_backend/native -type f)

PYTEST_ARGS ?= -n auto --dist worksteal
TESTS ?= tests
PIP := -m pip install -qq --disable-pip-version-check

# $(call stage,name,command): says what runs, and how long it took.
define stage
@echo "== $(1)"; start=$$SECONDS; { $(2); } || exit 1; echo "== $(1): $$((SECONDS - start)) s"
endef

# $(call environment,folder,interpreter): keeps one that works.
environment = { $(1)/bin/python -m pip --version >/dev/null 2>&1 || "$(2)" -m venv --clear $(1); }

.PHONY: help demo test test-full bench docs lint types unit full tflite-runtime test-matrix coverage clean

help:
	@sed -n '4,8s/^# *//p' Makefile

.venv/made:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer with the venv module found;" \
		"install one (Debian: python3-venv), or name one: make PYTHON=path" >&2; exit 1; }
	$(call stage,make .venv with $(PYTHON),$(call environment,.venv,$(PYTHON)) && touch $@)

.venv/installed: .venv/made pyproject.toml $(NATIVE)
	$(call stage,install,.venv/bin/python $(PIP) -e . && touch $@)

.venv/installed-test: .venv/made pyproject.toml $(NATIVE)
	$(call stage,install for tests,.venv/bin/python $(PIP) -e '.[test$(comma)litert$(comma)onnxruntime]' \
		&& touch $@ .venv/installed)

.venv-tflite/installed: pyproject.toml $(NATIVE)
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

# Releases beside the newest, which `make test` uses.
ONNXRUNTIMES ?= 1.23 1.25
MATRIX := $(addprefix .venv-ort-,$(ONNXRUNTIMES))

$(addsuffix /installed,$(MATRIX)): .venv-ort-%/installed: .venv/made pyproject.toml
	$(call stage,make $(@D),$(call environment,$(@D),$(PYTHON)) && $(@D)/bin/python $(PIP) \
		"onnxruntime==$*.*" flatbuffers hypothesis numpy onnx pytest rich tflite && touch $@)

$(addprefix test-,$(MATRIX)): test-%: %/installed .venv/installed-test
	$(call stage,provider tests in $*,library=$$(.venv/bin/python -c "from akida_backend import \
		onnxruntime; print(onnxruntime.library_path())") && PYTHONPATH=. \
		AKIDA_BACKEND_LIBRARY=$$library $*/bin/python -m pytest -q tests/onnxruntime_provider \
		tests/test_four_doors.py tests/test_original_runtimes.py)

test-matrix: $(addprefix test-,$(MATRIX))

coverage: .venv/installed-test
	$(call stage,coverage,.venv/bin/coverage run -m pytest $(TESTS) && .venv/bin/coverage report)

bench: .venv/installed-test
	@.venv/bin/python tools/benchmark.py $(if $(MODEL),"$(MODEL)")
	@.venv/bin/python tools/delegate_overhead.py
	@.venv/bin/python tools/benchmark_boundary.py

# Builds of the native engine that find what tests on their own do not; CONTRIBUTING says more.

.PHONY: sanitize sanitize-threads emulate fuzz
NATIVE_TESTS ?= tests/native
# Seconds of fuzzing, and what of the engine is built for it.
SECONDS ?= 600
FUZZ_TARGETS ?= all

# $(call native_build,folder,options of cmake,targets); .venv has CMake where the machine has none.
native_build = { export PATH="$(CURDIR)/.venv/bin:$$PATH" && cmake -S akida_backend/native -B build/$(1) $(2) >/dev/null \
	&& cmake --build build/$(1) --parallel --target $(3); }
# $(call native_tests,folder,environment): tests of the engine with that build.
native_tests = env AKIDA_BACKEND_LIBRARY=$(CURDIR)/build/$(1)/libakida_backend.so $(2) \
	.venv/bin/python -m pytest $(PYTEST_ARGS) --capture=sys $(NATIVE_TESTS)
# A process that is not instrumented has to load a sanitizer before all else, and the C++ library
# whose exceptions it watches.
preload = LD_PRELOAD="$$($${CXX:-c++} -print-file-name=$(1)) $$($${CXX:-c++} -print-file-name=libstdc++.so)"

sanitize: .venv/installed-test
	$(call stage,build with address and undefined behaviour sanitizers,\
		$(call native_build,sanitize,-DAKIDA_BACKEND_SANITIZE=ON,all))
	$(call stage,tests with sanitizers,$(call native_tests,sanitize,$(call preload,libasan.so) \
		ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=8 UBSAN_OPTIONS=print_stacktrace=1))

sanitize-threads: .venv/installed-test
	$(call stage,build with thread sanitizer,\
		$(call native_build,sanitize-threads,-DAKIDA_BACKEND_SANITIZE=thread,all))
	$(call stage,tests with thread sanitizer,$(call native_tests,sanitize-threads,\
		$(call preload,libtsan.so) TSAN_OPTIONS=report_signal_unsafe=0:exitcode=66) -k "thread or special")

emulate: .venv/installed-test
	$(call stage,build for other processors,\
		$(call native_build,emulate,-DAKIDA_BACKEND_EMULATE=ON,all))
	$(call stage,tests of other processors,$(call native_tests,emulate,))

fuzz: .venv/installed-test
	$(call stage,build the fuzzer,\
		$(call native_build,fuzz,-DAKIDA_BACKEND_FUZZ=ON -DCMAKE_CXX_COMPILER=clang++,$(FUZZ_TARGETS)))
	.venv/bin/python tests/native/fuzz_seeds.py build/fuzz/seeds
	mkdir -p build/fuzz/corpus build/fuzz/found
	$(call stage,fuzz for $(SECONDS) seconds,build/fuzz/fuzz_program -max_total_time=$(SECONDS) \
		-max_len=16384 -timeout=20 -rss_limit_mb=1500 -malloc_limit_mb=600 -print_funcs=0 \
		-print_final_stats=1 -verbosity=0 -artifact_prefix=build/fuzz/found/ \
		build/fuzz/corpus build/fuzz/seeds tests/native/corpus)

docs: .venv/installed-test
	@.venv/bin/python tools/write_docs.py

clean:
	rm -rf .venv .venv-tflite .venv-ort-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find akida_backend importers ops tests tools -name __pycache__ -prune -exec rm -rf {} +
