# The first call of a target installs into .venv what it needs; later calls find it there.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN := .venv/bin/python
TOLD_BY := setup.cfg pyproject.toml constraints.txt
# Tests write run folders by the hundred; where there is room, into memory.
ROOM := $(shell df -k /dev/shm 2> /dev/null | awk 'END { print ($$4 > 4000000) }')
TEMP := $(if $(filter 1,$(ROOM)),PYTEST_DEBUG_TEMPROOT=/dev/shm)
# The tests' processes find the bytecode that others have compiled.
export PYTHONDONTWRITEBYTECODE :=
# A worker for each core takes file by file, in the order of tests/conftest.py; and one more, since tests also wait.
export PYTEST_XDIST_AUTO_NUM_WORKERS ?= $(shell $(PYTHON) -c "import os; print((os.cpu_count() or 1) + 1)")
PYTEST := $(TEMP) $(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder
EXTRAS := data,sweep,video,worlds,test,lint

.NOTPARALLEL:
.PHONY: train test arithmetics slow lint format docs bench tensorboard lowest newest clean

train: .venv/train
	$(RUN) -m agents.train --env ant-nonstationary $(ARGS)

test: .venv/test
	OMP_NUM_THREADS=1 $(PYTEST) -m "not slow and not soak" $(ARGS)

# The numeric tests under other instruction sets and numbers of threads than this machine's own.
NUMERIC := tests/cbp tests/envs tests/agents/sb3 tests/agents/playing tests/agents/supervised tests/agents/runs/test_parity.py --deselect tests/agents/supervised/test_learn.py
arithmetics: .venv/test
	for arithmetic in "ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE" \
	    "ATEN_CPU_CAPABILITY=avx2 OPENBLAS_CORETYPE=Haswell NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES= \
	        NPY_DISABLE_CPU_FEATURES=X86_V4,AVX512_ICL,AVX512_SPR" \
	    "OPENBLAS_CORETYPE=Prescott NUMBA_CPU_NAME=generic NUMBA_CPU_FEATURES= \
	        NPY_DISABLE_CPU_FEATURES=X86_V3,X86_V4,AVX512_ICL,AVX512_SPR" \
	    "PYTEST_XDIST_AUTO_NUM_WORKERS=1 OMP_NUM_THREADS=2 MKL_CBWR=AVX2"; do \
	    echo "$$arithmetic"; \
	    env OMP_NUM_THREADS=1 $$arithmetic $(PYTEST) -q -m "not slow and not soak" $(NUMERIC) $(ARGS) || exit 1; \
	done

slow: .venv/test
	OMP_NUM_THREADS=1 $(PYTEST) -m "slow or soak" $(ARGS)

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

lowest newest:
	OMP_NUM_THREADS=1 $(PYTHON) .ci/versions.py $@ $(ARGS)

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
