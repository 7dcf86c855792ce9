# Postgate: make run | setup | test | lint | soak | bench. Each does all the set-up it needs.
# The distribution's Python where it will do (it gets the distribution's fixes, and is built with profile-guided optimisation:
# a tenth to an eighth more messages a second than one that was built without), else whatever python3 is.
PY ?= $(or $(shell for p in /usr/bin/python3 python3; do $$p -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && echo $$p && break; done),python3)
V := .venv
PIP := $(V)/bin/python -m pip --disable-pip-version-check
ARGS ?=
# Tests at once: most of them wait for other programs most of their time, so twice as many as processors (ports are for eight).
JOBS ?= $(shell n=$$(( 2 * $$(nproc) )); echo $$(( n < 8 ? n : 8 )))

.PHONY: run setup test lint types unit interop packages soak siege bench clean lock

run: $(V)/.stamp
	@$(V)/bin/postgate run $(ARGS)

setup: $(V)/.stamp

# The runtime: the standard library's venv, hash-locked wheels, three source packages built without isolation.
$(V)/.stamp: requirements.txt build.txt pyproject.toml
	@$(PY) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 14) else "Postgate needs Python 3.11 to 3.14, found %d.%d (make PY=python3.12 ...)" % v)'
	@$(PY) -c 'import ensurepip' 2>/dev/null || { echo "missing: apt-get install python3-venv"; exit 1; }
	@echo "setting up $(V) (about half a minute, once) ..."
	@$(PY) -m venv --clear $(V)
	@echo "  1/3 build tools"
	@$(PIP) install -q --require-hashes --only-binary=:all: -r build.txt
	@echo "  2/3 libraries"
	@$(PIP) install -q --require-hashes --no-build-isolation --only-binary=:all: --no-binary=pyspf,dkimpy,authres -r requirements.txt
	@echo "  3/3 postgate itself"
	@$(PIP) install -q --no-deps --no-build-isolation --no-index -e .
	@$(PIP) check >/dev/null
	@touch $@

$(V)/.stamp-dev: $(V)/.stamp requirements-dev.txt
	@echo "  test and lint tools"
	@$(PIP) install -q --require-hashes --only-binary=:all: -r requirements-dev.txt
	@touch $@

# Debian packages that the interop tests start by hand; installing starts no service.
packages:
	@sh tests/interop/install-packages.sh

lint: $(V)/.stamp-dev
	@$(V)/bin/ruff check appliance tests bench
	@$(V)/bin/ruff format --check appliance tests bench

types: $(V)/.stamp-dev
	@$(V)/bin/mypy

test: $(V)/.stamp-dev packages lint types
	@$(V)/bin/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

# Only what needs no peer program: seconds instead of minutes.
unit: $(V)/.stamp-dev
	@$(V)/bin/python -m pytest -n 2 -m "not peer and not fault" $(ARGS)

# Ten minutes of random faults of all peers under load; the seed that it prints repeats a run (ARGS="--seed N --minutes M").
soak: $(V)/.stamp-dev
	@$(V)/bin/python -m tests.soak $(ARGS)

# The long form of the tests that kill.
siege: $(V)/.stamp-dev packages
	@$(V)/bin/python -m pytest -n 0 --timeout 7200 tests/faults --long $(ARGS)

bench: $(V)/.stamp-dev packages
	@$(V)/bin/python -m bench $(ARGS)

# For maintainers, with uv on the PATH: make the lock and its hash-locked exports agree with pyproject.toml.
lock:
	uv lock
	uv export -q --locked --no-dev --no-emit-project --no-header --format requirements-txt -o requirements.txt
	uv export -q --locked --only-group test --only-group lint --no-emit-project --no-header --format requirements-txt -o requirements-dev.txt
	uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-annotate build.in -o build.txt

clean:
	rm -rf $(V) run
