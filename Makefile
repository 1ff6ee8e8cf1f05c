# Everything runs in .venv, which the first target that needs it creates: Python 3.11 or newer and make will do.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
READY := $(VENV)/.installed
WORKERS ?= 2
INSTALL = $(UV) pip install --quiet --compile-bytecode --python $(PY) -r requirements.lock && \
	$(UV) pip install --quiet --python $(PY) --no-deps --editable .

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint docs format lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(READY) ## create .venv with the locked versions and this package

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.11"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	test -x $(UV) || $(PY) -m pip install --quiet --disable-pip-version-check uv
	# Behind a proxy with a certificate of its own the first attempt fails; the second trusts what the system trusts.
	{ $(INSTALL); } || { export UV_SYSTEM_CERTS=true; $(INSTALL); }
	@touch $@

demo: $(READY) ## a virtual study, every experiment on it, the table and the figures (about 8 minutes on 2 cores)
	$(PY) -m toxfusion.demo

test: export OMP_NUM_THREADS := 1
test: $(READY) ## all tests
	$(PY) -m pytest -n $(WORKERS) --dist worksteal

lint: $(READY) ## style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(READY) ## the documentation as a site, below site/
	$(PY) -m mkdocs build --strict

format: $(READY) ## rewrite the code in the one style
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

lock: $(READY) ## choose versions anew from the ranges of pyproject.toml
	$(UV) pip compile pyproject.toml --extra dev --extra docs --extra sweeps --universal --python-version 3.11 --upgrade \
		--no-header --no-emit-index-url --no-annotate --quiet -o requirements.lock

clean: ## remove what the tools leave behind; .venv, studies, runs and the demo's results stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
