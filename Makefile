# Two commands do everything on a machine that has only Python and make: `make demo`, `make test`.
PYTHON ?= python3
BIN := .venv/bin
# Two cores are shared by the tests' many small models; more threads only get in each other's way.
export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg

.PHONY: demo test test-slow check format bench docs clean

demo: .venv/.installed
	$(BIN)/ensemble-kit demo

test: .venv/.installed
	$(BIN)/pytest -m "not slow"

test-slow: .venv/.installed
	$(BIN)/pytest

check: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/numpydoc lint $$(git ls-files 'ensemble_kit/*.py' | grep -v '/_[a-z]')
	$(BIN)/pytest -m "not slow"

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

bench: .venv/.installed
	for script in benchmarks/*.py; do $(BIN)/python $$script; done

docs: .venv/.installed
	$(BIN)/sphinx-build -W -E --keep-going -q -b html docs docs/_build/html

clean:
	rm -rf .venv ensemble_kit_output docs/_build docs/api
