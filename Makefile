# The whole workbench. `make` or `make help` lists the targets; `make demo` and `make test`
# work as the first command on a fresh clone.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# torch first and exact, so that pip cannot settle on another build while resolving the rest.
TORCH := torch==2.13.0
CODE := phi_vision pretraining benchmarks docs/generate.py

.DEFAULT_GOAL := help
.PHONY: help venv browser demo demo-photos test installed docs format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' \
		| while IFS="$$(printf '\t')" read -r name what; do printf '  make %-11s %s\n' "$$name" "$$what"; done

venv: .venv/.installed  ## create .venv with everything the project needs

# The stamp is written last: an interrupted installation is taken up again.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("phi-vision needs Python 3.11 or newer, found " + sys.version.split()[0] + "; try: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv; torch alone takes a few minutes ..."
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: venv  ## sample catalog, fine-tuning, evaluation, one question before and after
	./demo.sh

demo-photos:  ## the same on photographs: make demo-photos DATA=FOLDER, of images with their records
	@test -e "$(DATA)" || { echo "make demo-photos: there is no DATA '$(DATA)'; give a folder of images with a table of their records, or with a folder for each category: make demo-photos DATA=FOLDER" >&2; exit 2; }
	@$(MAKE) --no-print-directory venv
	./demo.sh "$(DATA)"

browser:  ## install Chromium, which the tests of the pages look with, where apt and root are there
	@command -v chromium >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium; } || \
		echo "No chromium: the tests of the pages will be skipped. Install it to run them."

test: venv browser  ## format, lint, types and every test: what the CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(CODE)  # strict, as pyproject.toml says
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist worksteal

installed:  ## install the wheel into an empty environment and use it there: make installed PYTHON=python3.13
	$(PYTHON) -m benchmarks.installed

docs: venv  ## write the references of commands and HTTP, and build the site into site/
	$(BIN)/python -m tests.test_cli_reference > docs/cli.md
	$(BIN)/python -m tests.test_http_reference > docs/openapi.json
	$(BIN)/python -m tests.cli.test_newcomer_errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --site-dir site

format: venv  ## format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove caches and build leftovers (.venv and runs/ stay)
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
