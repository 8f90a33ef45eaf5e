# The first call of any target sets up .venv; later calls find it there.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN := .venv/bin/python

.PHONY: train test slow lint format docs bench tensorboard clean

train: .venv/installed
	$(RUN) -m agents.train --env ant-nonstationary $(ARGS)

test: .venv/installed
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m "not slow" -n auto --dist loadfile $(ARGS)

slow: .venv/installed
	$(RUN) -m pytest -m slow $(ARGS)

lint: .venv/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: .venv/installed
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: .venv/installed
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(RUN) -m mkdocs build --strict

bench: .venv/installed
	$(RUN) benchmarks/throughput.py $(ARGS)

tensorboard: .venv/installed
	$(RUN) -m tensorboard.main --logdir runs --host localhost

clean:
	rm -rf .venv *.egg-info

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[data,sweep,video,test,lint]'
	touch $@
