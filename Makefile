# Two commands do everything on a machine with Python 3.11 and make:
#   make install     set up, run nothing
#   make run         set up, run the smoke recipe, print the results and where the report is
#   make test        set up, run the tests
# If nothing has changed, each starts at once.
#   make test-slow   the tests that each take minutes: kills, launches, whole recipes
#   make test-one FILE=tests/test_mixture.py    one file
#   make lab         JupyterLab, at notebook 00; `finlab open RECIPE STEP` opens any other

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# uv is several times faster than pip. If only pip knows your mirror: make INSTALL='$(PIP)'
INSTALL ?= $(BIN)/uv pip install --quiet --python $(BIN)/python
PYTEST := $(BIN)/python -m pytest -m "not gpu and not bench"
# The workers divide the tests by file; one worker begins with the tests of the smoke run.
WORKERS ?= 2
SHARED := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: install run test test-slow test-lab test-one bench lab format clean

install: $(VENV)/.run

run: $(VENV)/.run
	$(BIN)/finlab run smoke

# A thread that waits for others sleeps, so that the other worker can use its core.
test test-slow: export OMP_WAIT_POLICY := passive

test: $(VENV)/.test
	$(PYTEST) $(SHARED) tests --ignore tests/slow

test-slow: $(VENV)/.test
	$(PYTEST) $(SHARED) tests/slow

test-lab: $(VENV)/.test
	FINLAB_LAB=all $(PYTEST) tests/slow/test_lab.py

test-one: $(VENV)/.test
	$(PYTEST) $(FILE)

bench: $(VENV)/.test
	$(INSTALL) -e ".[bench]"
	$(BIN)/python -m pytest -m bench -s benchmarks

lab: $(VENV)/.lab
	$(BIN)/finlab lab

format: $(VENV)/.test
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb

# pip installs torch first and alone: with a looser requirement, a CPU machine would download
# gigabytes of CUDA packages. The commands after it keep this torch.
$(VENV)/.run: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "this project needs $(PYTHON): install it, or say which one with make PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0 setuptools uv
	$(INSTALL) -e .
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(INSTALL) -e ".[test]"
	touch $@

$(VENV)/.lab: $(VENV)/.run
	$(INSTALL) -e ".[all]"
	touch $@

clean:
	rm -rf $(VENV) runs
