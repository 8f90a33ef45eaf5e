# The first call of a target installs into .venv what it needs; later calls find it there.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN := .venv/bin/python
TOLD_BY := setup.cfg pyproject.toml constraints.txt
# Tests write run folders by the hundred; where there is room, into memory.
ROOM := $(shell df -k /dev/shm 2> /dev/null | awk 'END { print ($$4 > 4000000) }')
TEMP := $(if $(filter 1,$(ROOM)),PYTEST_DEBUG_TEMPROOT=/dev/shm)
EXTRAS := data,sweep,video,test,lint

.PHONY: train test slow lint format docs bench tensorboard lowest clean

train: .venv/train
	$(RUN) -m agents.train --env ant-nonstationary $(ARGS)

test: .venv/test
	OMP_NUM_THREADS=1 $(TEMP) $(RUN) -m pytest -m "not slow" -n auto --dist loadfile $(ARGS)

slow: .venv/test
	$(TEMP) $(RUN) -m pytest -m slow $(ARGS)

lint: .venv/test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: .venv/test
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: .venv/docs
	$(RUN) -m mkdocs build --strict

bench: .venv/train
	$(RUN) benchmarks/throughput.py $(ARGS)

tensorboard: .venv/train
	$(RUN) -m tensorboard.main --logdir runs --host localhost

lowest:
	$(PYTHON) .ci/lowest.py $(ARGS)

clean:
	rm -rf .venv *.egg-info

.venv/train: $(TOLD_BY)
	$(call install,.)

.venv/test: $(TOLD_BY)
	$(call install,.[$(EXTRAS)])
	touch .venv/train

.venv/docs: $(TOLD_BY)
	$(call install,.[docs])
	touch .venv/train

define install
	@echo "Installing into .venv, once: minutes, of which PyTorch is most"
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --constraint constraints.txt --editable '$(1)'
	touch $@
endef
