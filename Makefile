# make train   environment, installation, the production run
# make test    environment, installation, all tests
# make lint    ruff and mypy
# make bench   speed, as ratios against peers in the same run
# PYTHON=python3.12 chooses the interpreter (3.10 to 3.13), ARGS="--symbols all" passes options on.
# CONSTRAINTS=FILE bounds the versions installed: make test PYTHON=python3.10 VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
CONSTRAINTS ?=
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q $(CONSTRAINTS:%=-c %)

.PHONY: train test lint bench clean

train: $(VENV)/.installed
	$(BIN)/python train_v2_production.py $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(ARGS)

$(VENV)/.installed: requirements.txt $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt requirements-optional.txt
	$(INSTALL) -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
