# Two commands: `make run` shows the demo, `make test` tests everything. `make studio` is the
# artist's side.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch is installed only for tests that draw with it; constraints.txt pins what we tested.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: run studio test check bench format clean

run: $(VENV)/.run  ## draw the demo's sets if they are missing, and serve the show
	@$(BIN)/understudy generate batch
	@exec $(BIN)/understudy serve

studio: $(VENV)/.studio  ## the artist's side of the demo, at http://localhost:8100
	@exec $(BIN)/understudy studio

# Most tests wait for something real; three at a time keep both cores of a small machine busy.
test: $(VENV)/.dev  ## every test
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.dev  ## format, lint, types, import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m server --help >/dev/null

bench: $(VENV)/.dev  ## figures, each beside a peer measured in the same run
	$(BIN)/python -m benchmarks

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) actions quarantine studio demo/.understudy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Not compiled beforehand: most of what is installed is never imported, and somebody waits.
$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --no-compile --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.studio: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --no-compile --constraint constraints.txt --editable '.[studio]'
	@touch $@ $(VENV)/.run

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.run $(VENV)/.studio
