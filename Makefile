# One word for each thing a newcomer does; `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(PATH):/usr/sbin:/sbin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run test check fuzz load bench prepare clean

help: ## list what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

run: $(VENV)/.installed ## install into .venv and run the demo: a shell in a container
	@exec $(BIN)/bastion demo

test: prepare ## install what the tests need, and run them all
	@$(MAKE) --no-print-directory $(VENV)/.installed-dev
	@$(BIN)/python -m tests.images
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile

check: $(VENV)/.installed-dev ## lint, format, types, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: prepare ## mutate all that comes from outside for SECONDS=600: parsers, and a running server
	@$(MAKE) --no-print-directory $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),600)

load: prepare ## load, break and attack bastions for MINUTES=1.5 and ten more; writes docs/reliability.md
	@$(MAKE) --no-print-directory $(VENV)/.installed-dev
	$(BIN)/python -m bench.load --minutes $(or $(MINUTES),1.5)

bench: prepare ## measure against docker exec and OpenSSH; writes bench/RESULTS.md
	@$(MAKE) --no-print-directory $(VENV)/.installed-dev
	$(BIN)/python -m bench

prepare:
	@sh tests/prepare.sh

clean: ## remove what was made here; the demo's keys and transcripts too
	rm -rf $(VENV) .demo .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage dist

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo 'bastion: error: $(PYTHON) is missing or older than 3.11' >&2; \
	  echo 'bastion: hint: apt-get install python3, or make PYTHON=/path/to/python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null && echo 'installing python3-venv' >&2 && \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 python3-venv >/dev/null && \
	  $(PYTHON) -c 'import ensurepip, venv'; } || { \
	  echo 'bastion: error: $(PYTHON) cannot make virtual environments: python3-venv is missing' >&2; \
	  echo 'bastion: hint: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
