# The README's commands. Everything runs in .venv, which any target makes when it is missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile

.PHONY: demo demo-ci demo-english test test-slow test-soak test-random check format docs lock clean

demo: $(INSTALLED)  ## the main job, small, on this machine
	$(BIN)/neuneu demo

demo-ci: $(INSTALLED)  ## the same, reduced for CI
	$(BIN)/neuneu demo --config jobs/configs/demo-ci.yaml

demo-english: $(INSTALLED)  ## the main job on real English, BLiMP and OLMES (needs ../shared)
	$(BIN)/neuneu demo --config jobs/configs/demo-english.yaml

test: $(INSTALLED)  ## the tests, without the slow ones
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not slow and not gpu"

test-slow: $(INSTALLED)  ## the slow tests
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "slow and not gpu and not soak"

test-soak: $(INSTALLED)  ## kills and restarts of whole stages; on an otherwise idle machine
	$(BIN)/pytest -m soak

test-random: $(INSTALLED)  ## the property-based tests, with other examples at every run
	NEUNEU_EXAMPLES=random $(BIN)/pytest $(SIDE_BY_SIDE) $$(grep -rl "from hypothesis import" tests)

check: $(INSTALLED)  ## what CI and pre-commit check: format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED)  ## docs/reference/ from the code
	$(BIN)/python docs/generate.py

lock: $(INSTALLED)  ## resolve requirements/cpu.lock again (uv does not read pip's configuration)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra analysis --extra cluster --extra cpu --extra lm-eval --extra tune --extra dev \
	  --override requirements/override.txt --python-version 3.11 --no-header --no-annotate \
	  $(shell links=$$($(PYTHON) -m pip config get global.find-links 2>/dev/null) && echo --find-links $$links \
	    || echo --extra-index-url https://download.pytorch.org/whl/cpu) \
	  --output-file requirements/cpu.lock

clean:
	rm -rf $(VENV)

$(INSTALLED): requirements/cpu.lock pyproject.toml requirements/install.sh
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	requirements/install.sh $(VENV)
	touch $@
