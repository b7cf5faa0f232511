# Each command does whatever it needs on a fresh clone: `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Changes to these need a new installation. Changes inside Python modules do not, the installation is editable; but it
# knows only the modules that existed when it was made, so their list counts.
BUILT_FROM := pyproject.toml CMakeLists.txt $(wildcard native/*.* native/*/*.*) $(VENV)/modules
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help chat test lint check-native bench docs clean FORCE

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

chat: $(VENV)/base.stamp  ## talk to the built-in model; MODEL=path-or-name for another
	@$(BIN)/qwen3 chat $(MODEL)

test: $(VENV)/dev.stamp  ## all tests; ARGS='-k sampler' for some
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile $(ARGS)

lint: $(VENV)/dev.stamp  ## style and likely mistakes
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

check-native: $(VENV)/dev.stamp  ## the C++ kernels under sanitizers, and NEON under qemu where that is installed
	@$(PIP_INSTALL) cmake ninja
	@PATH="$(CURDIR)/$(BIN):$$PATH" CMAKE_GENERATOR=Ninja tests/native/check.sh

bench: $(VENV)/dev.stamp  ## the speed of the native kernels on this machine; benchmarks/ has more, each with --help
	@$(BIN)/python benchmarks/packed_matmul.py

docs: $(VENV)/dev.stamp  ## reference of the Python modules, into build/docs
	@$(BIN)/pdoc --output-directory build/docs $$(cd src && find qwen3 -name '*.py' | sort | \
	  sed -e 's|/__init__||' -e 's|\.py$$||' -e 's|/|.|g')
	@echo "wrote build/docs/index.html"

clean:  ## forget the virtual environment and everything built
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache

$(VENV)/base.stamp: $(BUILT_FROM) | $(BIN)/python
	@echo "Installing qwen3 into $(VENV): fetches torch, compiles the C++ kernels. The first time takes minutes."
	@$(PIP_INSTALL) --editable . </dev/null
	@touch $@

$(VENV)/dev.stamp: $(BUILT_FROM) | $(BIN)/python
	@echo "Installing qwen3[dev] into $(VENV): fetches torch, compiles the C++ kernels. The first time takes minutes."
	@$(PIP_INSTALL) --editable '.[dev]' </dev/null
	@touch $(VENV)/base.stamp $@

$(VENV)/modules: FORCE | $(BIN)/python
	@find src -name '*.py' | sort >$@.new; cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON). Install Python 3.11 or newer, or say which: make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version) is too old: 3.11 or newer is needed. Say which: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || { \
	  echo "Python's C headers are missing. Install them (Debian, Ubuntu: python3-dev; Fedora: python3-devel)."; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || { \
	  echo "There is no C++ compiler. Install one (Debian, Ubuntu: g++; Fedora: gcc-c++; macOS: xcode-select --install)."; \
	  exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
