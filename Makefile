# The default target lists the others. Only Go is needed; test-race needs a C
# compiler too, conformance-pushpin and bench-peers need Debian's packages.

VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PREFIX     ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR    ?=
FUZZTIME   ?= 30s
COUNT      ?= 10
DURATION   ?= 20m

PROGRAMS   := connmgr proxy handler zurl
LDFLAGS    := -s -w -X github.com/holdfast/holdfast/cmd/internal/cli.version=$(VERSION)
LINT       := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: $(PROGRAMS:%=bin/%) ## build the four programs into bin/

.PHONY: $(PROGRAMS:%=bin/%)
$(PROGRAMS:%=bin/%): bin/%:
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/$*

.PHONY: run
run: build ## start everything with deploy/holdfast.conf; the test route answers on port 7999
	scripts/holdfast --merge-output --config deploy/holdfast.conf

.PHONY: test
test: ## run the tests
	go test ./...

.PHONY: test-race
test-race: ## run the tests with the race detector, in random order
	go test -race -shuffle=on -count=1 ./...

.PHONY: test-e2e
test-e2e: build ## run the tests that start the real programs (see test/clients)
	go test -count=1 -tags e2e ./scripts/... ./test/...

.PHONY: test-faults
test-faults: build ## kill, stop and starve the real programs under load, and compare what was sent with what came
	go test -count=1 -tags faults -timeout 30m -v ./test/faults

.PHONY: soak
soak: build ## connect, publish and disconnect in rounds for DURATION; fails if memory, goroutines or open files grow
	go test -count=1 -tags faults -timeout 0 -v ./test/faults -run TestSoak -faults.soak $(DURATION)

.PHONY: conformance
conformance: build ## judge Holdfast from outside, case by case
	go run ./test/conformance -target holdfast

.PHONY: conformance-pushpin
conformance-pushpin: ## the same cases against an installed Pushpin
	go run ./test/conformance -target pushpin

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME
	scripts/fuzz $(FUZZTIME)

.PHONY: hostile-peers
hostile-peers: ## compare the answers of nginx and HAProxy to hostile requests with docs/security.md
	go test -count=1 -tags peers ./pkg/connmgr -run TestHostilePeers

.PHONY: bench
bench: ## run the benchmarks COUNT times into bench/out/new.txt
	@mkdir -p bench/out
	go test -run '^$$' -bench . -benchmem -count=$(COUNT) ./pkg/... | tee bench/out/new.txt

.PHONY: bench-peers
bench-peers: build ## measure Holdfast beside Pushpin and nchan
	go run ./bench/peers

.PHONY: bench-scaling
bench-scaling: build ## measure how Holdfast's cost grows with connections, channels, sizes and rates
	go run ./bench/peers -scaling

.PHONY: check
check: fmt-check vet lint tidy-check build test test-race ## what must pass before a change goes in
	scripts/fuzz 5s

.PHONY: fmt
fmt: ## format the code
	$(LINT) fmt

.PHONY: fmt-check
fmt-check: ## fail if the code is not formatted
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }

.PHONY: vet
vet: ## go vet
	go vet ./...

.PHONY: lint
lint: ## golangci-lint, and shellcheck if it is installed
	$(LINT) run
	@if command -v shellcheck >/dev/null; then shellcheck scripts/holdfast scripts/fuzz; fi

.PHONY: tidy
tidy: ## go mod tidy
	go mod tidy

.PHONY: tidy-check
tidy-check: ## fail if go.mod is not tidy
	go mod tidy -diff

.PHONY: docs
docs: ## make the configuration reference, the example configuration and the list of metrics anew
	go test ./pkg/config -run TestGenerated -update
	go test ./cmd/internal/cli -run TestMetricsDocument -update

.PHONY: golden
golden: ## make the golden files of the bus frames anew
	go test ./pkg/frame -update

.PHONY: install
install: build ## install below DESTDIR/PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/holdfast $(DESTDIR)$(SYSCONFDIR)/holdfast
	install -m 755 $(PROGRAMS:%=bin/%) $(DESTDIR)$(PREFIX)/lib/holdfast
	install -m 755 scripts/holdfast $(DESTDIR)$(PREFIX)/bin/holdfast
	@for f in holdfast.conf routes; do \
	  to=$(DESTDIR)$(SYSCONFDIR)/holdfast/$$f; \
	  if [ -e $$to ]; then echo "keeping $$to"; else install -m 644 deploy/$$f $$to; fi; \
	done

.PHONY: clean
clean: ## remove what was built
	rm -rf bin bench/out run log
