# make demo: a first look with sample photos. make test: every check. Both set up what they need in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint browser clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	touch $@

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,test]'
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

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tests of the page need a browser; where it is missing, root gets Debian's.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; \
	else echo "the tests of the page need a browser: install chromium" >&2; exit 1; fi

test: lint browser
	$(BIN)/python -m pytest -n 2 --dist loadfile

clean:
	rm -rf $(VENV) demo-photos
