# Two commands do everything on a machine with Python 3.11 and make:
#   make run    set up, run the smoke recipe, print the results and where the report is
#   make test   set up, run the tests
# `make lab` opens JupyterLab. Each starts at once when nothing has changed.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test bench lab format clean

run: $(READY)
	$(BIN)/finlab run smoke

test: $(READY)
	$(BIN)/python -m pytest -m "not gpu and not bench"

bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,bench]"
	$(BIN)/python -m pytest -m bench -s

lab: $(READY)
	$(BIN)/jupyter lab notebooks

format: $(READY)
	$(BIN)/ruff check --fix . && $(BIN)/nbstripout --keep-id notebooks/*.ipynb

# torch first and alone: with a looser request a CPU machine would download gigabytes of CUDA packages
$(READY): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "this project needs $(PYTHON): install it, or say which one with make PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $(READY)

clean:
	rm -rf $(VENV) runs
