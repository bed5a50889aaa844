# Everything from a fresh clone: `make demo`, `make test`. Needs Python >= 3.11 and a package index; no Hub, no GPU.
PYTHON ?= python3
BIN := .venv/bin
# A worker holds torch: as many as there are cores, and no more than four. A file's tests share what they made.
SIDE_BY_SIDE = --numprocesses auto --maxprocesses 4 --dist loadfile
LOWEST_TRANSFORMERS = $(shell sed -n 's/^LOWEST_TRANSFORMERS = "\([0-9.]*\)".*/\1/p' stablerep_hf/models/configuration_stablerep.py)

.PHONY: help demo test test-slow test-fake-gpu test-lowest check-remote-code lint docs app clean

demo: .venv/installed  ## captions to images to encoder to scores, in minutes; started again it goes on
	$(BIN)/stablerep demo

test: .venv/installed-dev  ## the quick tests, offline: every capability
	$(BIN)/python -m pytest -m "not live and not slow" $(SIDE_BY_SIDE)

test-slow: .venv/installed-dev  ## the tests that take long: kills, several processes, the guides
	$(BIN)/python -m pytest -m "slow and not live" $(SIDE_BY_SIDE)

test-fake-gpu: .venv/installed-dev  ## training, drawing and measuring on a device that is none, in its own process
	$(BIN)/python -m pytest tests/gpu

test-lowest: .venv-lowest/installed  ## the same on the lowest versions that pyproject.toml allows
	.venv-lowest/bin/python -m pytest $(SIDE_BY_SIDE)

check-remote-code:  ## the models that ship, on the lowest transformers that their code claims, without the package
	$(PYTHON) -m venv .venv-remote
	.venv-remote/bin/python -m pip install --quiet torch torchvision pillow "transformers==$(LOWEST_TRANSFORMERS).*"
	cd scripts && ../.venv-remote/bin/python check_remote_code.py

lint: .venv/installed-dev  ## formatting, lint, strict types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-dev  ## the documentation site, in spaces/docs/site
	$(BIN)/sphinx-build -W --keep-going -q -b html spaces/docs spaces/docs/site

help:  ## what can be made
	@sed -n 's/^\([a-z-]*\):.*  ## /\1	/p' Makefile | expand -t 20

app: .venv/installed-dev  ## the search page on http://127.0.0.1:7860
	$(BIN)/python spaces/retrieval/app.py

clean:  ## what the commands above made
	rm -rf .venv .venv-lowest .venv-remote demo .cache

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --upgrade --quiet pip
	$(BIN)/python -m pip install --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@

.venv-lowest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --upgrade pip uv
	.venv-lowest/bin/uv pip compile pyproject.toml --extra dev --resolution lowest-direct -o .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --editable '.[dev]' --constraint .venv-lowest/lowest.txt
	touch $@
