# make demo: a first look with sample photos. make docs: the documentation as a site. make test: every check. Each sets up what
# it needs in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo docs test lint types browser clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	touch $@

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,test]'
	touch $@

$(VENV)/docs.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
		> $@.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement $@.txt
	touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/python -m benchmarks.samples demo-photos
	$(BIN)/mmsearch index demo-photos --model $${MMSEARCH_DEMO_MODEL:-mini}
	$(BIN)/mmsearch search "a cat" --index demo-photos -k 3
	$(BIN)/mmsearch search --image demo-photos/coffee.png --index demo-photos -k 3
	$(BIN)/mmsearch search --image demo-photos/chelsea.png --kind text --index demo-photos -k 3
	$(BIN)/mmsearch search "a cat" --kind video --index demo-photos -k 1
	$(BIN)/mmsearch describe demo-photos/rocket.jpg demo-photos/horse.png --model $${MMSEARCH_DEMO_MODEL:-mini}
	@echo "In a browser: $(BIN)/mmsearch serve --index demo-photos --open"
	@echo "Your own folder: $(BIN)/mmsearch index FOLDER, then $(BIN)/mmsearch search WORDS --index FOLDER"

docs: $(VENV)/docs.stamp
	$(BIN)/zensical build --strict
	@echo "open build/docs/index.html"

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The page's modules have types, which TypeScript checks. It comes from npm, by the node of the test packages.
types: $(VENV)/test.stamp
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/npm install --silent --no-audit --no-fund --cache $(VENV)/npm --prefix $(VENV)/types typescript@~5.9
	$(BIN)/node $(VENV)/types/node_modules/typescript/bin/tsc --project server/page/tsconfig.json

# The tests of the page need a browser; where it is missing, root gets Debian's.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; \
	else echo "the tests of the page need a browser: install chromium" >&2; exit 1; fi

test: lint types browser
	$(BIN)/python -m pytest -n 2 --dist loadfile

clean:
	rm -rf $(VENV) demo-photos build/docs .cache
