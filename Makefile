# Two commands for a fresh clone: `make ablation` (from data to the decision card) and `make test` (lint and tests).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_INSTALL := pip install --quiet --disable-pip-version-check

export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_OFFLINE := 1

STRICT := $(addprefix coordexp/,config storage study analysis)

.PHONY: ablation test lint lock

ablation: $(STAMP)
	snakemake --cores all stage1_ablation
	coordexp show

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

$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP_INSTALL) -c requirements.lock -e .[dev]
	touch $@

# After a change of the pins: resolve them anew, without the lock, in an environment of its own. Takes minutes.
lock:
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/$(PIP_INSTALL) -e .[dev]
	grep '^#' requirements.lock > build/requirements.lock
	build/lock/bin/pip freeze --exclude-editable | sed 's/+.*//' >> build/requirements.lock
	mv build/requirements.lock requirements.lock
	rm -r build/lock
