# make demo: the whole path on the embedded synthetic faces; make test: the tests (test-quick: those that take no
# seconds); make lint: ruff, codespell and mypy; make docs: the site; make wheel: wheel and source distribution in dist/.
# Each sets up .venv first. PYTHON=python3.12 make test takes another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test test-quick coverage lint docs wheel clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.cfg constraints.txt face_align_env/_gather.c
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/face-align run --dataset synthetic --preset tiny --name demo --option size=600 \
		--gen-epochs 40 --lrn-epochs 13 --timesteps 20000 --device cpu

# Two processes with a thread each: most of a test is not torch.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

test: $(INSTALLED)
	$(PYTEST)

test-quick: $(INSTALLED)
	$(PYTEST) -m "not slow"

coverage: $(INSTALLED)
	$(PYTEST) --cov --cov-report=term --cov-report=xml

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	# Types are checked in the package as it is installed: the checkout does not have its modules' names.
	rm -rf build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-compile \
		--target build/lint .
	cd build/lint && ../../$(BIN)/mypy --config-file ../../setup.cfg --cache-dir ../../.mypy_cache -p face_align_env

# Warnings are errors, and notebooks are run; tests/test_docs.py runs the other examples.
docs: $(INSTALLED)
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

wheel: $(INSTALLED)
	rm -rf build dist
	$(BIN)/python -m build --no-isolation --outdir dist .

clean:
	rm -rf $(VENV) runs build dist docs/_build *.egg-info
