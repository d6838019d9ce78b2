# One name each; CI runs the same names.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: install demo test check bench evidence serve format clean

install: .venv/installed

# Rebuilt when the declared dependencies change.
.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/python -m service.demo

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Twenty minutes; --quick takes one, and says nothing about speed.
bench: install
	$(BIN)/python -m bench $(BENCH)

# The evidence in docs/adaptation.md, an hour or two; it can be interrupted. EVIDENCE=--quick takes a minute.
evidence: install
	$(BIN)/python -m bench.adaptation three-ways $(EVIDENCE)
	$(BIN)/python -m bench.adaptation map $(EVIDENCE)
	$(BIN)/python -m bench.adaptation rungs $(EVIDENCE)
	$(BIN)/python -m bench.adaptation elpv $(EVIDENCE)

serve: install
	$(BIN)/polyhead serve

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
