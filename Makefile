# make check       ruff, types, and the unit tests that are not marked slow
# make test        that, the slow ones, and every notebook with its solutions,
#                  compared with its stored outputs
# make notebooks   the series: figures/, artifacts/, copies in build/notebooks
# make site        docs/_build/html: the series, the reference, and the latent
#                  page, which all work without a network
# make store       the same, and stores the outputs in notebooks/
#
# Two notebooks run at a time; `make JOBS= ...` runs one, `make -j4 ...` four.
# All set up .venv first if needed. What has passed with these sources has a
# stamp under build/ and runs again only after a change that it depends on.

# The first Python of the right version that can make an environment.
IS_RIGHT := import sys, venv, ensurepip; \
	sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(IS_RIGHT)' 2> /dev/null && echo $$python && break; done)
RUN := .venv/bin/python
TYPES := $(RUN) -m basedpyright --pythonpath $(RUN)
UNITS := $(RUN) -m pytest --quiet --durations=5

# TensorFlow's start-up notes are not news.
export TF_CPP_MIN_LOG_LEVEL = 2
# Notebooks draw inline; a backend set outside would hide their figures.
unexport MPLBACKEND
unexport PYTHONHOME
unexport PYTHONPATH

.PHONY: notebooks lint check test site store benchmark format lock clean

NOTEBOOKS := $(basename $(notdir $(wildcard notebooks/[0-9]*.ipynb)))
PACKAGE := $(shell find vae_keras -type f ! -name '*.pyc')
# Last among prerequisites: other versions count, setting up anew does not.
LOCK := requirements.lock | .venv/ready
ALL := $(wildcard Makefile *.md *.toml *.yml *.py docs/* docs/latent/* \
	.github/*/*) \
	$(shell find vae_keras tests notebooks benchmarks examples \
	-name '[!.]*.*' ! -path '*/.*' ! -name '*.pyc')

notebooks: .venv/ready
	@$(call run,$(NOTEBOOKS:%=build/ran/%))
	@mkdir -p artifacts
	@cp -R build/series/artifacts/. artifacts
	@cp -R build/series/figures/. figures
	@echo "The series has run: see build/notebooks and figures."

lint: .venv/ready
	@$(call run,build/passed/ruff build/passed/types)

check: .venv/ready
	@$(call run,build/passed/ruff build/passed/types build/passed/quick)
	@echo "Lint, types and quick tests have passed with these sources."

test: check
	@$(call run,build/passed/alone)
	@$(call run,build/passed/slow $(NOTEBOOKS:%=build/passed/%))
	@echo "Everything has passed with these sources."

site: .venv/ready
	@$(RUN) -m sphinx -q -W -c docs -b html . docs/_build/html
	@$(RUN) docs/latent/build.py --notebooks notebooks/ --suffix .html \
		--output docs/_build/html/index.html
	@echo "The site is built: open docs/_build/html/index.html"

# One clean run, one notebook at a time: some outputs are seconds. Each has
# the threads that it has in `make notebooks`, which draws the same pictures.
store: .venv/ready
	@rm -rf build/ran
	@MAKEFLAGS= $(THREADS) $(MAKE) --no-print-directory JOBS= notebooks
	@cp build/notebooks/[0-9]*.ipynb notebooks
	@touch build/ran/*

benchmark: .venv/ready
	@$(EDITABLE) ".[test,peers]"
	$(RUN) benchmarks/throughput.py
	$(RUN) benchmarks/quality.py --plain-epochs 3
	$(RUN) benchmarks/convolution.py
	$(RUN) benchmarks/nll_speed.py

format: .venv/ready
	@$(RUN) -m ruff format . && $(RUN) -m ruff check --fix .

clean:
	rm -rf .venv build docs/_build artifacts dist *.egg-info \
		.pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# === The parts, and what each depends on ===

# $(call run,stamps) brings them up to date. If a part fails, its end and how
# to repeat it are the last things on the screen, whatever ran beside it.
JOBS = $(if $(findstring jobserver,$(MAKEFLAGS)),,-j2)
# Two at a time share the cores, and do not wait for each other's threads.
HALF := $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n > 1 ? n / 2 : 1)))
THREADS := TF_NUM_INTRAOP_THREADS=$(HALF) OMP_NUM_THREADS=$(HALF)
SHARE = $(if $(JOBS),$(THREADS))
run = rm -f build/failed; $(SHARE) $(MAKE) $(JOBS) --no-print-directory $(1) || \
	{ cat build/failed 2> /dev/null; exit 1; }

# $(call part,command) runs it, says how long it took and leaves the stamp $@,
# which has the time of the start: a change in the meantime counts.
define part
	@mkdir -p $(@D) build/log; touch $@.new; start=$$(date +%s); \
	echo "$(@F): running"; \
	if { $(1); } > build/log/$(@F).txt 2>&1; then mv $@.new $@; \
	echo "$(@F): done in $$(($$(date +%s) - start)) s"; \
	else echo "$(@F): failed"; test -e build/failed || \
	{ tail -n 60 build/log/$(@F).txt; echo; \
	echo "$(@F) failed. To repeat it alone: make $@"; } > build/failed; \
	$(if $(filter 0,$(MAKELEVEL)),cat build/failed;) exit 1; fi
endef

build/passed/ruff: $(ALL) $(LOCK)
	$(call part,$(RUN) -m ruff check . && $(RUN) -m ruff format --check .)

build/passed/types: $(PACKAGE) pyproject.toml .ci/overrides.json $(LOCK)
	$(call part,$(TYPES) && $(TYPES) --project .ci/overrides.json)

# Two at a time, but what measures runs by itself.
build/passed/quick: SELECT := -n 2 -m "not slow and not alone"
build/passed/alone: SELECT := -m "alone"
build/passed/quick build/passed/alone: $(ALL) $(LOCK)
	@mkdir -p $(@D); touch $@.new
	@echo '$(@F): unit tests, $(SELECT)'
	@$(UNITS) $(SELECT)
	@mv $@.new $@

build/passed/slow: $(ALL) $(LOCK)
	$(call part,$(UNITS) -m "slow and not alone")

# Where notebooks run: they write figures and artifacts and read the rest.
OWN_FIGURES = build/series/figures/$(firstword $(subst _, ,$*))_*
build/series:
	@mkdir -p $@/notebooks $@/figures $@/artifacts
	@ln -s ../../benchmarks ../../examples $@

build/passed/%: notebooks/%.ipynb conftest.py tests/nbval_copies.py \
		notebooks/nbval_sanitize.cfg $(PACKAGE) $(LOCK) build/series
	@rm -f $(OWN_FIGURES)
	$(call part,$(RUN) tests/nbval_copies.py $< && $(RUN) -m pytest \
		build/series/$< --verbose --color=no -x --nbval \
		--nbval-sanitize-with=notebooks/nbval_sanitize.cfg \
		--nbval-cell-timeout=1200 --override-ini=addopts= \
		--override-ini=filterwarnings= -p no:cacheprovider)
	@mkdir -p build/ran; cp -p $@ build/ran

build/ran/%: notebooks/%.ipynb notebooks/execute.py $(PACKAGE) $(LOCK) \
		build/series
	@rm -f $(OWN_FIGURES)
	$(call part,$(RUN) notebooks/execute.py $<)

# What notebooks read: models that earlier ones trained, and measurements.
BOTH := build/passed build/ran
RESULTS := benchmarks/results
$(BOTH:=/01_data_preparation): $(RESULTS)/spreads.json
$(BOTH:=/02_the_variational_autoencoder): \
	$(addprefix $(RESULTS)/,autoencoder.json quality.json spreads.json)
$(BOTH:=/03_training): $(RESULTS)/spreads.json
$(BOTH:=/04_generation): %/04_generation: %/03_training
$(BOTH:=/05_convolutional_vae): \
	$(addprefix $(RESULTS)/,convolution.json spreads.json)
$(BOTH:=/06_evaluation): %/06_evaluation: %/03_training \
	%/05_convolutional_vae $(RESULTS)/priors.json
$(BOTH:=/07_spatial_vae): %/07_spatial_vae: %/05_convolutional_vae \
	$(RESULTS)/spatial.json
$(BOTH:=/08_discrete_vae): $(RESULTS)/discrete.json $(RESULTS)/spatial.json
$(BOTH:=/09_the_article_line_by_line): %/09_the_article_line_by_line: \
	%/03_training %/05_convolutional_vae $(wildcard $(RESULTS)/*.json)
$(BOTH:=/10_limitations): %/10_limitations: %/03_training \
	%/05_convolutional_vae $(wildcard $(RESULTS)/*.json)
$(BOTH:=/11_your_own_project): \
	$(addprefix $(RESULTS)/,anomaly.json conditional.json)
$(BOTH:=/12_scaling_out): \
	$(addprefix $(RESULTS)/,scaling.json step_options.json) \
	examples/multi_worker.py

# === The environment ===

# At a terminal pip shows what it does, elsewhere only what goes wrong. After
# Ctrl-C the shell goes on, and says what `stop` says.
PIP = trap : INT; $(RUN) -m pip install --constraint requirements.lock \
	$$(test -t 2 || echo -qq)
# setuptools warns of every package that is installed in place.
EDITABLE = export PYTHONWARNINGS=ignore; $(PIP) --no-build-isolation --editable
export PIP_DISABLE_PIP_VERSION_CHECK = 1
stop = { echo "The set-up has stopped. It needs a network, and 3 GB of space \
	here and for pip. Run make again: it goes on."; exit 1; }

# An environment whose Python has gone is made anew.
$(shell test ! -e .venv/ready || $(RUN) -c '' 2> /dev/null || rm .venv/ready)

# Ready when packages and data are; what is left of half a set-up goes first.
.venv/ready: pyproject.toml requirements.lock
	@test -w . || { echo "This folder is read-only. Clone the repository to \
	where you may write, and run make there."; exit 1; }
	@"$(PYTHON)" -c '$(IS_RIGHT)' 2> /dev/null || { echo "No Python 3.11, \
	3.12 or 3.13 with venv was found$(if $(PYTHON), (not $(PYTHON))). \
	Install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Setting up .venv with $$($(PYTHON) --version): some minutes, once"
	@trap : INT; $(PYTHON) -m venv $(if $(wildcard $@),,--clear) .venv \
	2> /dev/null || $(stop)
	@test -e $@ || rm -rf build/passed build/ran; rm -f $@
	@echo "1 of 3: pip"
	@$(PIP) --upgrade pip setuptools || $(stop)
	@echo "2 of 3: TensorFlow, Jupyter and what they need"
	@$(EDITABLE) ".[test]" || $(stop)
	@echo "3 of 3: MNIST"
	@trap : INT; $(RUN) -c "import vae_keras; vae_keras.load_mnist()" \
	> .venv/mnist.txt 2>&1 || { tail -n 3 .venv/mnist.txt; $(stop); }
	@touch $@

# The versions in requirements.lock, kept where they still do: to move to
# newer ones, make lock UPGRADE=--upgrade
lock: .venv/ready
	@$(PIP) uv
	@echo pip | .venv/bin/uv pip compile --quiet --universal $(UPGRADE) \
		--python-version 3.11 --extra test --extra peers pyproject.toml - \
		--no-annotate --custom-compile-command "make lock" \
		--output-file requirements.lock
