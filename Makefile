# make notebooks   set up if needed, then execute the whole series
# make test        set up if needed, then unit tests and notebooks under nbval

# The first Python of the right version that can make an environment.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys, venv, ensurepip; \
	sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	2> /dev/null && echo $$python && break; done)
RUN := .venv/bin/python
INSTALL := $(RUN) -m pip install --quiet --constraint requirements.lock

# TensorFlow's start-up notes are not news.
export TF_CPP_MIN_LOG_LEVEL = 2
# Notebooks draw inline; a backend set outside would hide their figures.
unexport MPLBACKEND
unexport PYTHONHOME
unexport PYTHONPATH

.PHONY: notebooks test benchmark format clean store

notebooks: .venv/ready
	@$(RUN) notebooks/execute.py

test: .venv/ready
	@$(RUN) -m ruff check --quiet . && $(RUN) -m ruff format --quiet --check .
	@$(RUN) -m pytest --quiet --durations=5
	@$(RUN) tests/nbval_copies.py
	@$(RUN) -m pytest build/nbval/notebooks --verbose -x --nbval \
		--nbval-sanitize-with=notebooks/nbval_sanitize.cfg \
		--nbval-cell-timeout=1200 --override-ini=addopts= \
		--override-ini=filterwarnings= -p no:cacheprovider

# Outputs of one clean run, stored in the notebooks themselves.
store: .venv/ready
	@$(RUN) notebooks/execute.py --store

benchmark: .venv/ready
	$(INSTALL) --editable ".[test,peers]" --no-build-isolation
	$(RUN) benchmarks/throughput.py
	$(RUN) benchmarks/quality.py --plain-epochs 3
	$(RUN) benchmarks/fused_steps.py
	$(RUN) benchmarks/convolution.py
	$(RUN) benchmarks/nll_speed.py

format: .venv/ready
	@$(RUN) -m ruff format . && $(RUN) -m ruff check --fix .

clean:
	rm -rf .venv build artifacts dist *.egg-info .pytest_cache .ruff_cache \
		.hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# The environment is ready when packages and data are.
.venv/ready: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 with venv \
	was found. Install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Setting up .venv with $$($(PYTHON) --version) (some minutes, once)"
	@$(PYTHON) -m venv .venv
	@$(INSTALL) --upgrade pip setuptools
	@$(INSTALL) --editable ".[test]" --no-build-isolation
	@$(RUN) -c "import vae_keras; vae_keras.load_mnist()"
	@touch $@
