# One name each; CI runs the same names.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: install demo test chaos check k8s-check image-check bench evidence serve format lock clean

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

# Faults on a cluster of real processes, some minutes a seed; CHAOS='--write FILE' keeps the table.
SEEDS ?= 1
ROUNDS ?= 1
chaos: install
	$(BIN)/python -m tests.faults --seeds $(SEEDS) --rounds $(ROUNDS) $(CHAOS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The first time it fetches promtool and checkov into build/.
k8s-check: install
	$(BIN)/python -m k8s.check

# As root, on Debian; it installs buildah, crun and mmdebstrap. The CPU's torch comes from pytorch.org alone.
VARIANT := cuda
image-check: install
	$(BIN)/python -m k8s.image.check $(VARIANT)

# A quarter of an hour; --quick takes a minute, and says nothing about speed.
bench: install
	$(BIN)/python -m bench $(BENCH)

# The evidence in docs/adaptation.md, two hours or three; it can be interrupted. EVIDENCE=--quick takes a minute.
ELPV := --set input_size=300 --set crop_pct=1.0 --options '{"max_seconds": 300}'
evidence: install
	$(BIN)/python -m bench.adaptation three-ways $(EVIDENCE)
	$(BIN)/python -m bench.adaptation map $(EVIDENCE)
	$(BIN)/python -m bench.adaptation rungs $(EVIDENCE)
	$(BIN)/python -m bench.adaptation elpv --seed 0 $(ELPV) $(EVIDENCE)
	$(BIN)/python -m bench.adaptation elpv --seed 2 $(ELPV) $(EVIDENCE)

serve: install
	$(BIN)/polyhead serve

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What the image installs: the versions that the tests run with, and CUDA's packages apart. And checkov's.
UV := $(BIN)/uv pip compile --quiet --no-header --no-annotate --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28
lock: install
	$(BIN)/python -m pip install --quiet uv==0.13.9
	mkdir -p build
	$(BIN)/python -m pip list --format=freeze --exclude-editable > build/tested.txt
	$(UV) --extra lora --extra postgres --constraint build/tested.txt --generate-hashes pyproject.toml > build/lock
	awk '/^[a-z]/ { cuda = /^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/ } \
		{ print > (cuda ? "requirements-cuda.lock" : "requirements.lock") }' build/lock
	echo checkov==3.3.30 | $(UV) - > k8s/checkov.lock

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
