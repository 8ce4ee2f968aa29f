# Two commands do all the set-up on a machine with Python 3.11 or newer and make:
#   make reproduce            environment, install, python -m analysis.convergence   (ARGS="--quick" for a fast look)
#   make reproduce-full       the same, the long parts too
#   make test                 environment with development tools and PyTorch, install, the fast tests
# ARGS is handed on: make test ARGS="-k divergence -x"

.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
ARGS :=

# The first interpreter on the path that is new enough and can make virtual environments.
# The constraints are tested with 3.11, so that one comes first. Override with: make PYTHON=/path/to/python test
CANDIDATES := python3.11 python3.12 python3.13 python3.14 python3 python
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)

.PHONY: help environment environment-dev reproduce reproduce-full test test-slow test-all test-oldest check format lock docs release clean

help:
	@echo "make reproduce    install what running needs, then python -m analysis.convergence (ARGS=--quick: the fast version)"
	@echo "make reproduce-full  the same with the parts that take longest, whose results stay otherwise"
	@echo "make test         install everything, run the fast tests (ARGS are pytest's)"
	@echo "make test-slow    the slow tests;   make test-all: both;   make test-oldest: with the oldest versions allowed"
	@echo "make check        ruff and pyright;   make format: ruff's formatter"
	@echo "make docs         the documentation site, into site/;   make release: wheel and sdist, checked, into dist/"
	@echo "make environment  only the environment, .venv;   make environment-dev: with tools and PyTorch"
	@echo "make lock         write constraints.txt anew from the newest versions;   make clean: remove .venv"

# The stamps make both environments idempotent: they are redone when the declared or locked versions change.
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "No usable Python found. Needed: Python 3.11 or newer with the venv and ensurepip modules." >&2; \
		echo "On Debian and Ubuntu: apt install python3-venv. Or name one: make PYTHON=/path/to/python3.11 ..." >&2; \
		for p in $(CANDIDATES); do command -v $$p >/dev/null && echo "  seen: $$p, $$($$p --version 2>&1)" >&2; done; exit 1; fi
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip || echo "pip could not be upgraded; going on with $$($(BIN)/python -m pip --version)"

$(RUN_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV); the first time takes a few minutes."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV), with PyTorch; the first time takes a few minutes."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,interop,docs,app,ray]"
	@touch $@ $(RUN_STAMP)

environment: $(RUN_STAMP)
environment-dev: $(DEV_STAMP)

reproduce: environment
	$(BIN)/python -m analysis.convergence $(ARGS)

reproduce-full: environment
	$(BIN)/python -m analysis.convergence --all $(ARGS)

# One process per core: most of a test is XLA compiling. A file stays in one process, and makes its fixtures once.
# The order of the files is that of tests/conftest.py, which begins with the longest.
PARALLEL := -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: environment-dev
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-slow: environment-dev
	$(BIN)/python -m pytest $(PARALLEL) -m slow $(ARGS)

test-all: environment-dev
	$(BIN)/python -m pytest $(PARALLEL) -m "" $(ARGS)

# The oldest versions of the direct dependencies that pyproject.toml allows, without PyTorch, in an environment
# of their own that uv resolves.
OLDEST := .venv-oldest
OLDEST_TESTS := tests/files tests/divergences/test_parser.py tests/divergences/test_generator.py \
	tests/divergences/test_gaussian.py tests/checkpoints/test_components.py tests/checkpoints/test_training.py \
	tests/pipeline/test_clip_tokenizer.py tests/pipeline/test_finding.py tests/pipeline/test_directory.py

test-oldest:
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip compile --quiet --resolution lowest-direct pyproject.toml --output-file $(OLDEST)/oldest.txt
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --requirement $(OLDEST)/oldest.txt \
		"pytest>=9" "hypothesis>=6.150" "beartype>=0.22"
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --no-deps --editable .
	$(OLDEST)/bin/python -m pytest -m "not slow and not interop" $(OLDEST_TESTS) $(ARGS)

check: environment-dev
	$(BIN)/ruff check .
	$(BIN)/pyright

format: environment-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Strict: a link that leads nowhere or a page that is not in the navigation ends the build.
docs: environment-dev
	$(BIN)/python docs/notebooks.py
	$(BIN)/python -m mkdocs build --strict

release: environment-dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[release]"
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

# Resolves every extra to the newest versions without installing them. torch keeps its line: which build
# an index serves for it depends on the exact version. Run the tests before committing the result.
lock: environment-dev
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --report $(VENV)/resolution.json \
		".[dev,interop,tpu,docs,app,ray,release]" "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -c 'import json; \
		rows = [i["metadata"] for i in json.load(open("$(VENV)/resolution.json"))["install"]]; \
		lines = sorted((r["name"] + "==" + r["version"].split("+")[0] for r in rows if r["name"] != "fdiv-jax"), key=str.lower); \
		head = open("constraints.txt").readline(); \
		open("constraints.txt", "w").write(head + "\n".join(lines) + "\n")'
	@git --no-pager diff --stat -- constraints.txt

clean:
	rm -rf $(VENV)
