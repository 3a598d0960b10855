# make run     the demo site on http://127.0.0.1:8000/ (PORT=… for another); needs only Python 3.11+
# make test    all tests: SQLite, PostgreSQL, Redis, a real Chromium, and the newest Django where Python 3.12+ is found
# make lint    ruff, mypy, migrations       make clean
# make bench, make faults    the long runs (ONLY="-k redis": a part of the faults)

PORT ?= 8000
PYTHON ?= $(shell .ci/find-python 3.11)
# Newer Django than the long-term release, which needs a newer Python; empty where there is none.
PYTHON_NEWEST ?= $(shell .ci/find-python 3.12 newest 2>/dev/null)
PYTEST = python -X dev -m pytest
# What runs side by side is printed one after the other, where make can (4.0 and newer).
APART = $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

.PHONY: run test test-sqlite test-postgres test-newest bench faults lint migrations system-packages clean

run: .venv/run
	@.venv/bin/python manage.py migrate --verbosity=0
	@.venv/bin/python manage.py demo --address http://127.0.0.1:$(PORT)/
	@exec .venv/bin/python -m daphne -b 127.0.0.1 -p $(PORT) -v 0 project.asgi:application

test: .venv/test system-packages
	.ci/test-javascript
	$(MAKE) --no-print-directory -j3 $(APART) test-sqlite test-postgres $(if $(PYTHON_NEWEST),test-newest)
	.venv/bin/$(PYTEST) -m "processes and not faults"

# What needs one process only can run beside the same on another database; servers, browsers and faults run alone.
test-sqlite: .venv/test
	.venv/bin/$(PYTEST) -m "not processes and not faults"

test-postgres: .venv/test
	.venv/bin/python -m tests.servers postgres .venv/bin/$(PYTEST) -m "not processes and not faults"

# With the options that docs/operate.md recommends.
test-newest: .venv-newest/test
	.venv-newest/bin/python -m tests.servers "postgres?server_side_binding=true&prepare_threshold=3" \
		.venv-newest/bin/$(PYTEST) -m "not processes and not faults"

bench: .venv/test system-packages
	.venv/bin/python -m benchmarks

faults: .venv/test system-packages
	FAULTS_TABLE=docs/guarantees.md FAULTS_QUIET=30 FAULTS_SLACK=1 .venv/bin/$(PYTEST) tests/faults tests/e2e -m faults $(ONLY)

lint: .venv/test migrations
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

migrations: .venv/test
	.venv/bin/python manage.py makemigrations --check --dry-run
	.venv/bin/python -m django makemigrations --check --dry-run --settings tests.settings

system-packages:
	@.ci/system-packages

.venv/run: requirements.txt | .venv/bin/pip
	.venv/bin/pip install --quiet --requirement requirements.txt "Django~=5.2"
	@touch $@

.venv/test: requirements.txt requirements-dev.txt | .venv/bin/pip
	.venv/bin/pip install --quiet --requirement requirements-dev.txt "Django~=5.2"
	@touch $@ .venv/run

.venv-newest/test: requirements.txt requirements-dev.txt
	PYTHON=$(PYTHON_NEWEST) .ci/system-packages python3-venv
	$(PYTHON_NEWEST) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --upgrade --requirement requirements-dev.txt "Django>=6"
	@touch $@

.venv/bin/pip:
	$(if $(PYTHON),,$(error Python 3.11 or newer is needed))
	PYTHON=$(PYTHON) .ci/system-packages python3-venv
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv .venv-newest .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist db.sqlite3*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
