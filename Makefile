# make        set up and run the main job: the dose study at quick size
# make test   set up and run the tests
# make help   the rest

VENV := .venv
BIN  := $(VENV)/bin
STAMP := $(VENV)/ready
# the first of these that is a Python this project runs on
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,14))' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: run setup test test-wheel prismatic browser bench lab docs dist sync help clean

run: $(STAMP)
	$(BIN)/hrtem-seg study dose --size quick

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "hrtem_seg needs Python 3.11 to 3.14; found: $$(python3 --version 2>&1). Install one, or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] <= (3,14))' || { echo "hrtem_seg needs Python 3.11 to 3.14; $(PYTHON) is $$($(PYTHON) --version 2>&1)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

# Prismatic 1.1.16 and h5py take part in two tests where they can be had; pyprismatic is compiled here, with the headers
# of FFTW and Boost, which CI installs. Nothing fails without them: the tests then say that they are skipped, and why.
prismatic: $(STAMP)
	@$(BIN)/python -c 'import h5py' 2>/dev/null || PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check h5py || true
	@$(BIN)/python -c 'import pyprismatic' 2>/dev/null || { \
		if ! [ -e /usr/include/fftw3.h -a -e /usr/include/boost/version.hpp ] && [ -n "$$CI" ] && [ "$$(id -u)" = 0 ]; then \
			{ apt-get -qq update && apt-get -qq install -y --no-install-recommends libfftw3-dev libboost-dev g++; } >/dev/null 2>&1; fi; \
		timeout 300 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --use-pep517 pyprismatic==1.1.16 >/dev/null 2>&1; \
		$(BIN)/python -c 'import pyprismatic' 2>/dev/null || echo 'pyprismatic 1.1.16 could not be built, and the test that needs it will be skipped; on Debian and Ubuntu: apt install g++ libfftw3-dev libboost-dev'; }

# The review widget is tried in a real browser where one can be had; the tests are skipped, with the reason, elsewhere.
browser: $(STAMP)
	@if [ -n "$$CI" ] && [ "$$(id -u)" = 0 ] && ! command -v chromium >/dev/null; then \
		{ apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium; } >/dev/null 2>&1 || true; fi
	@if command -v chromium >/dev/null && ! $(BIN)/python -c 'import playwright' 2>/dev/null; then \
		PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check playwright >/dev/null 2>&1 || true; fi

# two processes of one thread each are faster here than one of two; the tests of a file share what it made, so a file stays
# with one of them
test: $(STAMP) prismatic browser
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --n-workers 2 --timing
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -rs --durations=5 -n 2 --dist loadfile

# what a user gets from `pip install`: the wheel, in an environment of its own that borrows the dependencies of this one, in
# an empty folder
test-wheel: $(STAMP)
	$(BIN)/python tests/wheel.py

# side by side with abTEM, which is installed for this only
bench: $(STAMP)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,bench]'
	$(BIN)/hrtem-seg bench

# the site, from the notebooks as they are committed; offline once the packages are there
docs: $(STAMP)
	@$(BIN)/python -c 'import myst_nb, pydata_sphinx_theme, sphinx_design, altair, vl_convert' 2>/dev/null || PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/python docs/make_site.py --out build/site

# wheel and sdist, the same bytes whenever and wherever they are built from one commit
dist: $(STAMP)
	$(BIN)/python tests/dist.py dist

lab: $(STAMP)
	$(BIN)/jupyter lab nbs

# README.md is nbs/index.ipynb; its links lead into nbs/ from there
sync: $(STAMP)
	$(BIN)/nbdev-clean
	$(BIN)/nbdev-export
	$(BIN)/jupyter nbconvert --to markdown --log-level WARN --output-dir . --output README --NbConvertApp.output_files_dir=data/readme \
		--TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_cell_tags=hide --TagRemovePreprocessor.remove_input_tags=hide_input nbs/index.ipynb
	sed -e 's#](\([a-z0-9_/]*\.ipynb\))#](nbs/\1)#g' -e 's#](\.\./#](#g' README.md > README.tmp && mv README.tmp README.md

clean:
	rm -rf $(VENV) build dist *.egg-info

help:
	@echo 'make        set up and run the dose study at quick size (less than ten minutes on 2 cores)'
	@echo 'make test   set up and run the tests'
	@echo 'make test-wheel  build the wheel, install it outside the clone and try the commands there'
	@echo 'make prismatic  build Prismatic 1.1.16 for the tests, where that is possible (make test does it)'
	@echo 'make docs   build the site in build/site'
	@echo 'make dist   build wheel and sdist, twice, and compare them byte by byte'
	@echo 'make bench  set up and run the speed benchmarks'
	@echo 'make lab    open JupyterLab on the notebooks'
	@echo 'make sync   clean and export the notebooks, write README.md from nbs/index.ipynb'
	@echo 'make clean  remove the environment'
