# Commands for users, developers and CI. They run in .venv, which `make` creates if it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-bf16 check package docs docs-test drawings bench faults clean

demo: .venv/installed
	$(BIN)/selfcluster demo

test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist loadfile

# Test as on a CPU with AMX, where `--precision auto` means bf16, and check types and shapes at every call.
test-bf16: .venv/installed
	SELFCLUSTER_TEST_BF16=1 SELFCLUSTER_TEST_TYPES=1 $(BIN)/python -m pytest -n auto --dist loadfile

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Build wheel and sdist, check them, and use the wheel in an empty environment of PYTHON.
# RESOLUTION=lowest-direct takes the oldest versions of the dependencies; TESTS="tests/clustering tests/settings" are run there, too.
RESOLUTION := highest
package: build/uv/bin/uv
	build/uv/bin/uv run --quiet --script tools/package.py --python $(PYTHON) --resolution $(RESOLUTION) $(if $(TESTS),--tests $(TESTS))

# The documentation site: docs/_build/html/index.html. No network is needed, and a warning is an error.
docs: .venv/documented
	$(BIN)/sphinx-build -E -q -W --keep-going docs docs/_build/html

# Run every command that the README and the docs show, on a few small photos, and list those that are not run.
docs-test: .venv/installed
	$(BIN)/python -m pytest -rs tests/docs_blocks.py

# The drawings of the docs, some of them computed.
drawings: .venv/installed
	$(BIN)/python docs/tools/drawings.py

# Each benchmark prints its figures and writes them to benchmarks/results. All of them take half an hour on two cores.
bench: .venv/benched
	$(BIN)/python -m benchmarks.crops
	$(BIN)/python -m benchmarks.step digits=digits --peer
	$(BIN)/python -m benchmarks.epochs
	OMP_WAIT_POLICY=passive $(BIN)/python -m benchmarks.kmeans --sizes 50000
	$(BIN)/python -m benchmarks.embed
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.growth_step
	$(BIN)/python -m benchmarks.levers
	$(BIN)/python -m benchmarks.startup

# Faults injected into runs; hours on two cores, most of them for mutated files and collapses.
faults: .venv/installed
	$(BIN)/python -m benchmarks.faults.signals
	$(BIN)/python -m benchmarks.faults.ranks
	[ "$$(id -u)" != 0 ] || $(BIN)/python -m benchmarks.faults.hosts
	[ "$$(id -u)" != 0 ] || $(BIN)/python -m benchmarks.faults.disk_full
	$(BIN)/python -m benchmarks.faults.memory
	$(BIN)/python -m benchmarks.faults.collapse
	$(BIN)/python -m benchmarks.faults.fuzz

clean:
	rm -rf .venv build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache

build/uv/bin/uv:
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --quiet --disable-pip-version-check uv

.venv/benched: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	touch $@

.venv/documented: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "selfcluster needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
