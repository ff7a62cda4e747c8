# make setup       install into .venv (does nothing when it is current)
# make quickstart  the whole chain at small scale: teacher, pseudo labels, student, evaluation, report
# make test        all tests, on several cores
# make test-slurm  training and labelling as jobs of a real SLURM on this machine; needs slurm-wlm, munge and root
# make test-gpu    the tests that need a CUDA device
# make lint        style and types
# make coverage    all tests, with the share of lines they run

PYTHON ?= python3
BIN := .venv/bin
export NO_ALBUMENTATIONS_UPDATE := 1
# A process more than cores, because many tests wait for others; four at most, because each holds torch. A file stays in
# one process, so that what its tests share is made once.
PARALLEL := -n $(shell $(PYTHON) -c "import os; print(min((os.cpu_count() or 1) + 1, 4))") --dist loadfile

.PHONY: setup quickstart test test-slurm test-gpu lint coverage
setup: .venv/.current

# The stamp is newer than both files exactly when what they ask for is installed.
.venv/.current: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q depth_anything_train data_engine
	touch $@

quickstart: setup
	$(BIN)/depth-anything run pipeline=quickstart

test: setup
	$(BIN)/python -m pytest -m "not slurm" $(PARALLEL)

test-slurm: setup
	$(BIN)/python -m pytest tests/slurm

test-gpu: setup
	$(BIN)/python -m pytest -m gpu

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage: setup
	$(BIN)/python -m coverage run -m pytest -m "not slurm" $(PARALLEL)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --skip-covered --sort=cover --fail-under=85
