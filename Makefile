# make demo, make test: each works on a fresh machine that has Python 3.11 or 3.12, and make.
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo "$$p" && break; done)
VENV := .venv
BIN := $(VENV)/bin
DATA ?=
MAPPING ?= handbook
ONLY ?=

.PHONY: demo test check bench mutants lock clean

# Run the whole path: events, features, model, service, replay, parity, monitoring.
# make demo                                   on simulated events
# make demo DATA=file.parquet MAPPING=name    on your own (see: fraud mapping)
demo: $(VENV)/installed
	$(BIN)/fraud demo $(if $(DATA),--data "$(DATA)" --mapping "$(MAPPING)")

# By file, for what a file's tests share is costly to make: a trained model, a running service.
test: $(VENV)/installed
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

# Measure, side by side in one run, and write build/bench.json.
# make bench                            everything; make bench ONLY=floor,online some of it
# make bench DATA=file.parquet          where the Handbook's transactions are
# .venv/bin/pip install pyspark         (and a Java) before it, to have Spark's figures too
bench: $(VENV)/rivals
	$(BIN)/python -m tests.benchmarks $(if $(ONLY),--only "$(ONLY)") $(if $(DATA),--data "$(DATA)")

# Put faults into the kernel, one at a time, and see that the tests notice: about a minute each. Writes build/mutants.json.
mutants: $(VENV)/installed
	$(BIN)/python -m tests.mutants

# Write requirements.lock anew, for every platform and both Pythons: versions and hashes, no addresses.
lock: $(VENV)/installed
	$(BIN)/pip install --quiet "uv>=0.9"
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --extra dev --generate-hashes \
		--no-annotate --no-header --upgrade pyproject.toml --output-file requirements.lock

clean:
	rm -rf build $(VENV)

# What we are compared with; without it, its figures are reported as skipped.
$(VENV)/rivals: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[bench]" && touch $@ || true

# Rebuilt only when what is to be installed has changed.
$(VENV)/installed: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 found: install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@
