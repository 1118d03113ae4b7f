# PYTHON is only used to make environments; everything else runs inside .venv.
PYTHON ?= python3
TORCH := $(shell grep '^torch==' constraints.txt)
BIN := .venv/bin
STAMP := .venv/.installed
CLEAN := build/wheel-check

.PHONY: help env test check format quickstart wheel-check clean

help:
	@echo "make env          make .venv with everything pinned in constraints.txt"
	@echo "make test         run the tests"
	@echo "make check        lint, formatting and types"
	@echo "make format       apply the formatter and the safe lint fixes"
	@echo "make quickstart   run the whole of Icon2 on the bundled model, into runs/quickstart"
	@echo "make wheel-check  build the wheel, install it into a clean environment, use it from there"
	@echo "make clean        remove .venv and build products (runs/ stays)"
	@echo "Another interpreter: make env PYTHON=python3.12"

env: $(STAMP)

# torch goes first and alone: what is installed, say a build for the CPU only, the second step leaves as it is.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); hf_icon2 needs Python 3.11 or newer: make env PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	@touch $(STAMP)

# Two processes: most tests run on one thread. WORKERS=0 runs them in one, for instance to debug.
WORKERS ?= 2

test: env
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quickstart: env
	$(BIN)/hf-icon2 run --output runs/quickstart

# The core alone, without extras, and from another folder, so that the checkout cannot stand in for the wheel.
wheel-check:
	rm -rf $(CLEAN)
	$(PYTHON) -m venv $(CLEAN)/venv
	$(CLEAN)/venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir $(CLEAN)/dist .
	$(CLEAN)/venv/bin/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(CLEAN)/venv/bin/python -m pip install --quiet --constraint constraints.txt $(CLEAN)/dist/*.whl
	cd $(CLEAN) && venv/bin/python -c 'import hf_icon2, pathlib; \
	  root = pathlib.Path(hf_icon2.__file__).parent; \
	  assert "site-packages" in root.parts, root; \
	  missing = [p for p in ("py.typed", "toy/assistant/model.safetensors", "toy/student/model.safetensors") if not (root / p).is_file()]; \
	  assert not missing, f"not in the wheel: {missing}"; \
	  assert list(root.glob("cards/*.md")), "no card template in the wheel"'
	cd $(CLEAN) && venv/bin/hf-icon2 --help > /dev/null
	cd $(CLEAN) && venv/bin/python -W ignore -c 'from hf_icon2.toy import load_assistant; load_assistant()'
	@ls -l $(CLEAN)/dist/*.whl
	rm -rf $(CLEAN)/venv

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache
