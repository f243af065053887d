# make demo: the main job on real data.  make test: the whole suite.  make docs: the site, in site/.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# two workers suit a small machine; the tests themselves use one thread each
WORKERS ?= 2

.PHONY: demo test lint docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/demo.stamp
	$(VENV)/bin/taut demo --out demo

test: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n $(WORKERS)

lint: $(VENV)/dev.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

docs: $(VENV)/dev.stamp
	$(VENV)/bin/mkdocs build --strict

clean:
	rm -rf $(VENV) demo site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Stamps: nothing is installed again until the declared needs change.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("taut needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing taut and what the demo needs into $(VENV) (a few minutes the first time)"
	$(PIP) --editable '.[onnx,report,bench]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing taut and what the tests need into $(VENV) (a few minutes the first time)"
	$(PIP) --editable '.[all,dev]'
	@touch $@ $(VENV)/demo.stamp
