# make demo       environment, installation, a small model of made-up candles and its forecast: no network, half a minute
# make train      environment, installation, the production run
# make check      what to run before a commit: style, types, unit tests (under 3 minutes on 2 cores)
# make test       every test that proves a promise of the README or docs (under 10 minutes)
# make soak       what takes long by its nature: an hour and more; make soak-short takes six minutes
# make coverage   make test with the share of lines that it reaches, at least 98 %
# make mutations  mistakes of arithmetic, each of which a test must notice
# make dates      the tests of make test on three other days
# make traders    the real freqtrade, vectorbt and backtesting.py, in an environment of their own, on our signals
# make lint       ruff and mypy
# make format     put imports in order and lines into the formatter's shape
# make figures    the README's run, and its figures on README.md and docs/*.md: CANDLES=DIR has the candles, five minutes
# make bench      speed, as ratios against peers in the same run
# PYTHON=python3.12 chooses the interpreter (3.10 to 3.13), ARGS="--symbols all" passes options on.
# CONSTRAINTS=FILE bounds the versions installed: make test PYTHON=python3.10 VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
CANDLES ?= $(CRYPTO_TEST_DATA)/binanceusdm
CONSTRAINTS ?=
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q $(CONSTRAINTS:%=-c %)

# A process per core; a file of tests stays in one of them, with the networks that it trains.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo train check test soak soak-short coverage mutations dates traders lint format figures bench clean

demo: $(VENV)/.installed
	$(BIN)/python demo.py $(ARGS)

train: $(VENV)/.installed
	$(BIN)/python train_v2_production.py $(ARGS)

check: lint
	$(PYTEST) -m "not slow and not soak and not long" $(ARGS)

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not soak and not long" $(ARGS)

soak-short: $(VENV)/.installed-dev
	$(PYTEST) -m soak $(ARGS)
	$(BIN)/python -m tests.store_kills --kills 50

soak: soak-short mutations dates
	$(BIN)/python -m tests.store_kills --kills 200
	$(BIN)/python -m tests.retraining_kills --kills 20
	$(BIN)/python -m tests.fault_schedules --schedules 10000
	$(BIN)/python -m tests.two_nodes
	$(BIN)/python -m tests.older_keras
	$(BIN)/python -m tests.serving_ways
	$(BIN)/python -m tests.second_hundred
	$(BIN)/python -m tests.hostile_files
	$(BIN)/python -m tests.adapter_packages statsforecast
	$(PYTEST) -m long
	$(MAKE) coverage
	RACING_GENERATIONS="v1 v1_final v7 v9" $(PYTEST) tests/test_races.py

coverage: $(VENV)/.installed-dev
	$(PYTEST) -m "not soak and not long" --cov --cov-report=term --cov-fail-under=98 $(ARGS)

mutations: $(VENV)/.installed-dev
	$(BIN)/python -m tests.mutations

dates: $(VENV)/.installed-dev
	for day in 2027-02-28 2028-02-29 2030-12-31; do \
		CRYPTO_TEST_DATE="$${day}T23:58+00:00" $(PYTEST) -m "not soak and not long" $(ARGS) || exit 1; \
	done

traders: $(VENV)/.installed-dev $(VENV)-traders/.installed
	$(VENV)-traders/bin/python -m pytest tests/test_backtesters.py $(ARGS)
	CRYPTO_FREQTRADE=$(VENV)-traders/bin/freqtrade $(BIN)/python -m pytest -m soak tests/test_freqtrade.py $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

figures: $(VENV)/.installed
	$(BIN)/python train_v2_production.py --candles-dir "$(CANDLES)" --symbols BTC/USDT ETH/USDT --candles 8000 \
		--output-dir all_models/readme
	$(BIN)/python -m docs.figures all_models/readme

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(ARGS)

# The project itself goes in too, so that its modules and commands work from any folder.
$(VENV)/.installed: requirements.txt pyproject.toml setup.py $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), which takes some minutes the first time; pip says nothing meanwhile"
	$(INSTALL) -r requirements.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt requirements-optional.txt
	@echo "installing what the tests need into $(VENV), which takes some minutes; pip says nothing meanwhile"
	$(INSTALL) -r requirements-dev.txt
	touch $@

# What traders use, whose requirements are narrower than ours. freqtrade brings ccxt, TA-Lib and pyarrow.
$(VENV)-traders/.installed: Makefile
	$(PYTHON) -m venv $(VENV)-traders
	$(VENV)-traders/bin/python -m pip install --disable-pip-version-check -q \
		freqtrade onnxruntime scipy vectorbt backtesting pytest hypothesis time-machine
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-traders .pytest_cache .mypy_cache .ruff_cache
