PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/quickstart
ENV := pointmaze-medium-navigate-v0

.PHONY: install quickstart test lint tests reliability benchmark clean

install: .venv/installed

.venv/installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

quickstart: install
	test -f data/$(ENV).npz || $(BIN)/qgf collect --env=$(ENV) --episodes=300 --out=data
	$(BIN)/qgf train --config=experiments/configs/quickstart.py --workdir=$(RUN)
	$(BIN)/qgf evaluate --workdir=$(RUN) --methods=reference,best_of,qgf
	$(BIN)/qgf report --workdir=$(RUN)
	@echo "open $(RUN)/report/index.html"

test: lint tests

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check

tests: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

reliability: install
	QGF_RELIABILITY=long $(BIN)/python -m pytest -n 2 --dist loadfile tests/reliability tests/test_hosts.py tests/test_cli.py tests/test_learns.py tests/test_stream.py tests/test_parallel.py tests/test_global_batch.py
	$(BIN)/python tests/chaos.py --workdir=runs/chaos

benchmark: install
	$(BIN)/python benchmarks/all.py

clean:
	rm -rf .venv build *.egg-info
