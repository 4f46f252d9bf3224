# `make help` lists the targets. Everything that is made lies in .venv, build and dist.
PYTHON ?= python3
# An Alpine minirootfs tarball, to be build/rootfs instead of Debian's busybox. Once given it stays in force;
# `make setup ROOTFS_TARBALL=` goes back to busybox.
ROOTFS_MADE_FROM := $(shell cat build/stamps/rootfs 2>/dev/null)
ROOTFS_TARBALL ?= $(ROOTFS_MADE_FROM)
# uv only resolves the lock; whoever installs needs nothing but pip.
UV := uv==0.13.*

BIN := .venv/bin
STAMPS := build/stamps
PACKAGE_FILES := $(shell find src -name '*.py')
BPF_OBJECT := src/wherry/memory/monitor.bpf.o
WORKLOADS := $(addprefix build/workloads/,cpu_hog io_pulse log_lines log_storm memory_grow memory_hog memory_hostile memory_kinds)

export PATH := $(CURDIR)/$(BIN):$(CURDIR)/build/tools:$(PATH)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' Makefile

setup: .venv/.compiled $(STAMPS)/rootfs $(BPF_OBJECT) ## Debian packages, .venv with the package, BPF object, workloads, build/rootfs

setup-test: setup
	@scripts/setup-debian.sh test

demo: setup ## a tour of the engine on build/rootfs
	@scripts/demo.sh

picture: setup ## docs/images/demo.svg, the picture of the README: chapters of the tour as a terminal shows them
	@scripts/demo.sh name memory survival >build/demo.txt 2>&1 || { cat build/demo.txt >&2; exit 1; }
	@$(BIN)/python scripts/draw-terminal.py 'scripts/demo.sh' <build/demo.txt >build/demo.svg
	@mv build/demo.svg docs/images/demo.svg

setup-vm: setup
	@scripts/setup-debian.sh vm

test: setup-test setup-vm lint ## lint, types and all tests; WHERRY_STRICT=1 makes a skip a failure
	@scripts/test.sh

test-all: test test-vm test-kmod-debug test-api chaos ## all suites (hours)

test-vm: setup-vm ## the kernel module and control groups version 2, in virtual machines
	@WHERRY_LOADS=100 $(BIN)/pytest tests/vm

test-kmod-debug: setup ## the kernel module in a kernel with KASAN, lockdep and kmemleak, which is built first
	@scripts/setup-debian.sh debug
	@WHERRY_LOADS=100 $(BIN)/pytest tests/vm/debug

test-api: setup-test ## thousands of generated requests to all paths of docker's API, and answers against its swagger (minutes)
	@WHERRY_EXAMPLES=200 $(BIN)/pytest tests/root/api/test_swagger.py

test-attacks: setup-test ## what a hostile container tries, with and without each defence: prints the table
	@$(BIN)/pytest -q -m attack tests/unit tests/root

chaos: setup-test ## the log tests and the model of lives with thousands of kills and longer searches, and a thousand containers (hours)
	@WHERRY_KILLS=3000 WHERRY_CHAOS=1 $(BIN)/pytest tests/unit/logs tests/unit/supervisor/lifecycle/test_life_model.py tests/root/logs/test_truth.py tests/root/logs/test_readers*.py tests/root/supervisor/lifecycle/test_scale.py tests/root/supervisor/lifecycle/test_restart_policies.py tests/root/supervisor/lifecycle/test_enforcement_chaos.py

test-unit: setup ## the tests that need no root
	@$(BIN)/pytest -n 2 tests/unit

lint: .venv/.package ## format, lint and types
	@$(BIN)/ruff format --check --quiet || { echo 'make fmt formats these' >&2; exit 1; }
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy

fmt: .venv/.package ## format, and fix what ruff can fix
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

bench: setup-test ## starts, the CLI, logs and memory limits against floors and peers: crun, runc, docker, conmon ...
	@$(BIN)/python benchmarks/start.py
	@$(BIN)/python benchmarks/cli.py
	@$(BIN)/python benchmarks/logs.py
	@$(BIN)/python benchmarks/limits.py
	@$(BIN)/python benchmarks/scale.py

bench-kmod: setup-vm ## the kernel module in a virtual machine: bytes over the limit, cost
	@$(BIN)/python benchmarks/kmod.py

wheel: .venv/.package $(BPF_OBJECT) ## dist/wherry-VERSION-py3-none-any.whl
	@$(BIN)/pip wheel -qq --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

lock: ## resolve requirements.lock anew (LOCK=--upgrade for newer versions)
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/pip install -qq '$(UV)'
	@build/lock/bin/uv pip compile --quiet $(LOCK) --universal --python-version 3.11 --extra dev --extra experiments --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
		--output-file requirements.lock pyproject.toml

clean: ## remove all that was made
	rm -f $(BPF_OBJECT)
	rm -rf --one-file-system .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks scripts -name __pycache__ -prune -exec rm -rf {} +

# Order-only: it looks each time (20 ms), but what depends on it is not made anew for that.
packages:
	@scripts/setup-debian.sh base

.venv/.locked: requirements.lock | packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wherry needs Python 3.11 or newer")'
	@echo 'setup: Python packages into .venv'
	@$(PYTHON) -m venv --clear .venv
# Before Python 3.12 a new venv holds setuptools, whose .pth file costs every start of the CLI a millisecond (of 12).
	@$(BIN)/pip uninstall -qq --yes --disable-pip-version-check setuptools
	@$(BIN)/pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

.venv/.package: .venv/.locked pyproject.toml src/wherry/__init__.py
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# With PYTHONDONTWRITEBYTECODE set, each call of the CLI would compile every module it imports.
.venv/.compiled: .venv/.package $(PACKAGE_FILES)
	@$(BIN)/python -m compileall -q src
	@touch $@

$(BPF_OBJECT): $(wildcard bpf/*) | packages
	@$(MAKE) --no-print-directory -s -C bpf
	@touch -c $@

$(WORKLOADS) &: $(wildcard workloads/*) | packages
	@$(MAKE) --no-print-directory -C workloads
	@touch -c $(WORKLOADS)

$(STAMPS)/rootfs: $(WORKLOADS) scripts/make-rootfs.sh $(wildcard $(ROOTFS_TARBALL)) | packages
	@echo 'setup: build/rootfs'
	@scripts/make-rootfs.sh build/rootfs build/workloads $(ROOTFS_TARBALL)
	@mkdir -p $(@D)
	@echo '$(ROOTFS_TARBALL)' >$@

ifneq ($(ROOTFS_TARBALL),$(ROOTFS_MADE_FROM))
$(STAMPS)/rootfs: FORCE
endif

FORCE:
.PHONY: help setup setup-test setup-vm demo picture test test-all test-api test-kmod-debug chaos test-unit test-vm test-attacks lint fmt bench bench-kmod wheel lock clean packages FORCE
