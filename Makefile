# Two commands for a fresh clone: `make ablation` (from data to the decision card) and `make test` (lint and tests).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_INSTALL := pip install --quiet --disable-pip-version-check
HASHED := --require-hashes --no-deps
LOCKS := requirements.lock requirements-build.lock requirements-torch.lock requirements-torch-cpu.lock

export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_OFFLINE := 1

STRICT := $(addprefix coordexp/,config storage study analysis)

.PHONY: ablation install test lint lock

ablation: $(STAMP)
	snakemake --cores all stage1_ablation
	@echo 'The commands of this project, and what to look at next:'
	@echo '  export PATH="$(CURDIR)/$(BIN):$$PATH"'
	@echo '  coordexp ui'

install: $(STAMP)
	@echo 'To have the commands of this project in this shell:'
	@echo '  export PATH="$(CURDIR)/$(BIN):$$PATH"'

test: lint
	pytest

lint: $(STAMP)
	ruff check .
	ruff format --check .
	mypy
	mypy --strict --follow-imports=silent --cache-dir=.mypy_cache/strict $(STRICT)
	lint-imports
	snakefmt --check Snakefile workflow
	snakemake --lint

# Every file that is installed, or builds what is, must have a hash of the locks. torch's CPU build is taken where pip finds
# it, else torch of the public index. `pip check` finds what is missing.
$(STAMP): pyproject.toml $(LOCKS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP_INSTALL) $(HASHED) --only-binary :all: -r requirements-build.lock
	$(BIN)/$(PIP_INSTALL) $(HASHED) -r requirements-torch-cpu.lock 2>/dev/null || \
	$(BIN)/$(PIP_INSTALL) $(HASHED) -r requirements-torch.lock
	$(BIN)/$(PIP_INSTALL) $(HASHED) --no-build-isolation -r requirements.lock
	$(BIN)/$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	$(BIN)/pip check
	touch $@

# After a change of the pins, or for new versions (`make lock UPGRADE=--upgrade`).
lock:
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/$(PIP_INSTALL) uv==0.13.9 packaging==25.0
	PATH="$(CURDIR)/build/lock/bin:$$PATH" build/lock/bin/python .ci/lock.py $(UPGRADE)
	rm -r build/lock
