# make demo: the whole path on the embedded synthetic faces; make test: the tests; make lint: ruff and mypy.
# Each sets up .venv first. PYTHON=python3.12 make test takes another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test lint clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.cfg constraints.txt face_align_env/_gather.c
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/face-align run --dataset synthetic --preset tiny --name demo --option size=600 \
		--gen-epochs 40 --lrn-epochs 13 --timesteps 20000 --device cpu

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# Types are checked in the package as it is installed: the checkout does not have its modules' names.
	rm -rf build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-compile \
		--target build/lint .
	cd build/lint && ../../$(BIN)/mypy --config-file ../../setup.cfg --cache-dir ../../.mypy_cache -p face_align_env

clean:
	rm -rf $(VENV) runs build *.egg-info
