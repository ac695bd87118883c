# The one entry for people and for CI. `make` alone lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(VENV)/.done ## create .venv with the program and its tools in it

$(VENV)/.done: pyproject.toml requirements.lock scripts/make-venv $(wildcard egress_router/relay/plane/*)
	@scripts/make-venv $(PYTHON) $(VENV)
	@touch $@

.PHONY: network-tools
network-tools:
	@scripts/need nft:nftables iptables:iptables ip:iproute2

.PHONY: test-tools
test-tools:
	@scripts/need curl:curl wget:wget git:git openssl:openssl nginx:nginx-light apt-get:apt

.PHONY: demo
demo: venv network-tools ## build a small network on this machine and show all three modes in it
	@$(BIN)/egress-router demo

.PHONY: test
test: venv network-tools test-tools ## all tests that need no container engine: unit, network, fuzz (short)
	@scripts/test $(VENV)

.PHONY: test-repeat
test-repeat: venv network-tools test-tools ## `make test` N times (20) beside BURNERS (0) busy processes; says how many were green
	@scripts/test-repeat $(VENV) $(or $(N),20) $(or $(BURNERS),0)

.PHONY: coverage
coverage: venv network-tools test-tools ## `make test`, and compare the branch coverage of its unit tests with tests/uncovered.txt
	@rm -rf build/coverage
	@mkdir -p build/coverage
	@COVERAGE_FILE=$(CURDIR)/build/coverage/data scripts/test $(VENV) $(BIN)/coverage run
	@$(BIN)/coverage combine --quiet --data-file build/coverage/data build/coverage
	@$(BIN)/coverage json --quiet --data-file build/coverage/data -o build/coverage/report.json
	@$(BIN)/python scripts/uncovered --slack 8 build/coverage/report.json

.PHONY: test-standby
test-standby: venv network-tools ## two routers, one address: a million simulated schedules, 1,000 real fail-overs without and 1,000 with a Lease (hours)
	@$(BIN)/python -m tests.unit.standby.simulation $(or $(SCHEDULES),1000000) --compiled
	@scripts/in-namespaces $(BIN)/python -m egress_router.lab.failover $(or $(TRIALS),1000) --parallel $(or $(PARALLEL),$(shell nproc))
	@scripts/in-namespaces $(BIN)/python -m egress_router.lab.failover $(or $(TRIALS),1000) --parallel $(or $(PARALLEL),$(shell nproc)) --lease

.PHONY: test-clients
test-clients: venv ## transparent ports under Java's and Go's TLS, curl and openssl, nginx with a certificate chain
	@scripts/need javac:default-jdk-headless go:golang-go nginx:nginx-light curl:curl openssl:openssl
	@$(BIN)/pytest tests/clients

.PHONY: test-page
test-page: venv ## the status page in headless Chromium: content, live update, escaping, phone, dark mode
	@scripts/need chromium:chromium
	@$(BIN)/pytest tests/browser

.PHONY: bench
bench: venv network-tools ## everything in benchmarks/, beside squid, tinyproxy, haproxy and nginx (about 30 minutes)
	@scripts/need cc:gcc squid:squid haproxy:haproxy tinyproxy:tinyproxy nginx:nginx-light \
	  conntrack:conntrack /usr/lib/nginx/modules/ngx_stream_module.so:libnginx-mod-stream
	@$(BIN)/python -m benchmarks.proxies http dns
	@$(BIN)/python -m benchmarks.responsiveness
	@$(BIN)/python -m benchmarks.redirect
	@$(BIN)/python -m benchmarks.changing
	@$(BIN)/python -m benchmarks.transparent

.PHONY: soak
soak: venv ## mixed load, reloads, killed workers, dead destinations, for SOAK_SECONDS (600)
	@scripts/need cc:gcc
	@$(BIN)/python -m benchmarks.soak

.PHONY: fuzz
fuzz: venv ## hostile requests, answers and ClientHellos, and random schedules of sockets, ten minutes each
	@FUZZ_SECONDS=600 $(BIN)/pytest --timeout 700 -k mutated tests/unit/http_proxy tests/unit/names tests/unit/tls
	@FUZZ_SECONDS=600 scripts/test-sanitized $(VENV) --timeout 700 tests/unit/relay/test_schedules.py

.PHONY: bench-redirect
bench-redirect: venv network-tools ## redirect mode: set-up time, memory and cost of a connection by number of lines
	@scripts/need cc:gcc haproxy:haproxy conntrack:conntrack
	@$(BIN)/python -m benchmarks.redirect

.PHONY: bench-dns
bench-dns: venv ## what reading one DNS answer costs, honest ones and hostile ones
	@$(BIN)/python -m benchmarks.dns_answers

.PHONY: test-chart
test-chart: venv network-tools ## the Helm chart: rendered, linted, checked against schemas; its alerts and dashboard, by promtool
	@scripts/need promtool:prometheus
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r tests/chart/requirements.lock
	@$(BIN)/pytest tests/chart

.PHONY: man
man: venv ## manual pages of all commands: build/man
	@$(BIN)/python -m egress_router.manual build/man

.PHONY: chart-tables
chart-tables: venv ## write the chart's generated parts: its README's table of values, the variables that its schema knows
	@$(BIN)/python scripts/chart-tables

.PHONY: images
images: ## build the three images with docker or podman, and print their sizes (BASE=…: another base)
	@scripts/build-images $(BASE)

.PHONY: test-images
test-images: venv ## build the images and run pods of all three modes for real, with podman (root)
	@scripts/test-images

.PHONY: test-compose
test-compose: venv ## build the images and run docker-compose.yml with podman-compose (root; part of test-images)
	@scripts/test-images -k compose

.PHONY: docs
docs: venv ## a site from README and docs/, with every link checked: build/site
	@[ -x build/docs-venv/bin/pip ] || $(BIN)/python -m venv build/docs-venv
	@build/docs-venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r scripts/docs-requirements.lock
	@NO_MKDOCS_2_WARNING=1 build/docs-venv/bin/mkdocs build

.PHONY: release-check
release-check: venv ## check all of a release that needs no registry: versions, wheel, chart (images: test-images)
	@scripts/release-check

.PHONY: lint
lint: venv ## ruff and mypy --strict, on package, tests and benchmarks
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

.PHONY: format
format: venv ## let ruff format and fix what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: lock
lock: venv ## choose the newest versions that pyproject.toml allows, and pin them with hashes
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --no-header --python-version 3.11 --all-extras --output-file requirements.lock --upgrade pyproject.toml
	@for lock in requirements-runtime.lock:pyproject.toml images/build.lock:images/build.in \
	  tests/chart/requirements.lock:tests/chart/requirements.in \
	  tests/images/requirements.lock:tests/images/requirements.in \
	  scripts/docs-requirements.lock:scripts/docs-requirements.in; do \
	  $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
	    --no-header --python-version 3.11 --constraints requirements.lock \
	    --output-file "$${lock%%:*}" --upgrade "$${lock#*:}"; \
	done

.PHONY: clean
clean: ## remove what the other targets made here
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis egress_router.egg-info
