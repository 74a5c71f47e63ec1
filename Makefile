# Another environment than .venv: make test PYTHON=3.12 VENV=.venv-3.12
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart
MINUTES ?= 8
OUT ?= accelerator.json
STUDY ?= runs/study
BASELINES ?= runs/baselines
TUNED := policy.inverse_temperature,-policy.alpha,-policy.bc_weight
ENV := pointmaze-medium-navigate-v0

.PHONY: install quickstart study baselines study-data test lint tests whole oldest guide torch reliability mutants tables benchmark accelerator kernels docs clean

install: $(VENV)/installed
	@test -z '$(PYTHON)' || test "$$("$$(.ci/python $(PYTHON))" -V)" = "$$($(BIN)/python -V)" || \
	{ echo '$(VENV) was made with another Python: add VENV=.venv-NAME, or make clean' >&2; exit 1; }

# What pip cannot resolve by itself comes last, without its dependencies: see setup.cfg.
$(VENV)/installed: setup.cfg pyproject.toml
	@test -x $(BIN)/python || { python=$$(.ci/python $(PYTHON)) && "$$python" -m venv $(VENV); }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]' $(LIMITS)
	$(BIN)/python -c 'from qgf_jax.envs import ogbench; print(*ogbench.FAMILY.requirements())' > $(VENV)/ogbench
	$(BIN)/python -m pip install --quiet --no-deps $$(cat $(VENV)/ogbench) $(LIMITS)
	touch $@

quickstart: install
	test -f data/$(ENV).npz || $(BIN)/qgf collect --env=$(ENV) --episodes=300 --out=data
	$(BIN)/qgf train --config=experiments/configs/quickstart.py --workdir=$(RUN)
	$(BIN)/qgf evaluate --workdir=$(RUN) --methods=reference,best_of,qgf
	$(BIN)/qgf report --workdir=$(RUN)
	@echo "open $(RUN)/report/index.html"

# Hours. The same command goes on where it was stopped.
study: study-data
	$(BIN)/qgf sweep experiments/sweeps/study.py --out=$(STUDY)
	$(BIN)/qgf report $(STUDY) --baseline=qgf

# Days; FLAGS='--only=*_fql_*' makes a part. Compared with the study's qgf where there is a study.
baselines: study-data
	$(BIN)/qgf sweep experiments/sweeps/baselines.py --out=$(BASELINES) $(FLAGS)
	$(BIN)/qgf report $(BASELINES) $(BESIDE) --tuned=$(TUNED) --out=$(BASELINES)/report

baselines: BESIDE = $(if $(wildcard $(STUDY)/sweep.json),$(STUDY) --baseline=qgf)

study-data: install
	for env in pointmaze-medium-navigate cube-single-play puzzle-3x3-play scene-play; do \
		test -f data/$$env-v0.npz || case $$env in \
		pointmaze*) $(BIN)/qgf collect --env=$$env-v0 --episodes=300 --out=data ;; \
		*) $(BIN)/qgf collect --env=$$env-v0 --episodes=250 --out=data ;; esac || exit; done

test: lint tests

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python $(VENV)

tests: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

# With the tests that `make test` leaves out because they take long.
whole: lint
	QGF_TESTS=whole $(BIN)/python -m pytest -n 2 --dist loadfile

# Python and each dependency at the lowest version that setup.cfg allows.
oldest:
	mkdir -p .venv-oldest
	"$$(.ci/python)" tests/oldest.py > .venv-oldest/constraints
	QGF_TESTS=whole $(MAKE) --no-print-directory tests PYTHON=3.11 VENV=.venv-oldest LIMITS='-c .venv-oldest/constraints'

# The guide by itself: beside its oldest JAX and Python, where that is there, and beside what openpi pins.
guide:
	@set -e; for pair in 0.4.34:3.10 0.5.3:3.11; do \
	    jax=$${pair%:*}; venv=.venv-guide-$$jax; \
	    test -x $$venv/bin/python || "$$(QGF_PYTHON_FROM=10 .ci/python $${pair#*:} 2> /dev/null || .ci/python)" -m venv $$venv; \
	    $$venv/bin/python -m pip install --quiet ./qgf_guide "jax==$$jax" "jaxlib==$$jax" 'numpy==1.26.*' pytest; \
	    XLA_FLAGS=--xla_backend_optimization_level=0 $$venv/bin/python -m pytest -q -c /dev/null -p no:cacheprovider --confcutdir=tests/guide tests/guide; \
	done; rm -rf qgf_guide/build qgf_guide/*.egg-info

# PyTorch is large, so in an environment of its own.
torch:
	$(MAKE) --no-print-directory install VENV=.venv-torch
	.venv-torch/bin/python -m pip install --quiet -e '.[torch]'
	.venv-torch/bin/python -m pytest tests/guide/test_torch.py

reliability: install
	QGF_RELIABILITY=long $(BIN)/python -m pytest -n 2 --dist loadfile tests/reliability tests/test_hosts.py tests/test_cli.py tests/test_learns.py tests/test_stream.py tests/test_parallel.py tests/test_global_batch.py tests/test_lowering.py tests/test_replay.py tests/test_accelerator.py tests/test_toy.py tests/test_methods.py tests/test_trunk.py tests/test_prepared.py tests/test_evaluate.py tests/test_surroundings.py tests/test_unrendered.py
	$(BIN)/python tests/chaos.py --workdir=runs/chaos

# CUDA's libraries are large, so in an environment of their own; no card is needed.
kernels:
	$(MAKE) --no-print-directory install PYTHON=3.12 VENV=.venv-kernels
	.venv-kernels/bin/python -m pip install --quiet -e '.[cuda]'
	.venv-kernels/bin/python benchmarks/kernels.py --all

mutants: install
	$(BIN)/python tests/mutants.py

# From the episodes that lie there: no run, no network.
tables: install
	$(BIN)/python experiments/tables.py

# The pages that are made of the code; those of `make benchmark` are not among them.
docs: install
	$(BIN)/python docs/tools/architecture.py
	$(BIN)/python docs/tools/api.py
	$(BIN)/qgf methods --markdown > docs/methods.md
	$(BIN)/python -m qgf_jax.cli.keys > docs/config.md

benchmark: install
	$(BIN)/python benchmarks/all.py

# Where the packages are there already, `python benchmarks/accelerator.py` alone does it.
accelerator: install
	@! command -v nvidia-smi > /dev/null || $(BIN)/python -c 'import jax_cuda13_plugin' 2> /dev/null || \
	$(BIN)/python -m pip install --quiet -e '.[cuda]' $(LIMITS)
	$(BIN)/python benchmarks/accelerator.py --minutes=$(MINUTES) --out=$(OUT) $(FLAGS)

clean:
	rm -rf .venv .venv-* build *.egg-info
