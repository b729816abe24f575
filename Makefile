# ingot: one line of help per target; `make` prints it.
SHELL       := /bin/bash
GOPROXY     := $(shell go env GOPROXY | sed 's/,direct//g')
export GOPROXY
export GOFLAGS := -buildvcs=false
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS     := -s -w -X main.version=$(VERSION)
STATIC      := CGO_ENABLED=0 go build -trimpath
E2E_TIMEOUT ?= 15m
# Packages with tests that INGOT_TEST_ALL makes longer, the longest first: two run at a time. The race detector's run has
# played what is the same with it, here and in all other packages. archtest looks that nothing is left out.
LONGER      := ./bootserver/state/bolt ./builder ./rootfs/volumes ./builder/squashfs ./bootserver/fleet/rollout \
	./rootfs/initrd ./bootserver/dhcp4 ./bootserver/dhcp6

.DEFAULT_GOAL := help
.PHONY: help setup build man install test test-unit test-all test-all-builds test-all-machines soak demo lab bench \
	release lint clean

help: ## print this help
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install the Debian packages that are missing (quiet when none is)
	@scripts/setup test

build: ## build bin/ingot and bin/ingot-init
	@mkdir -p bin
	@$(STATIC) -ldflags '$(LDFLAGS)' -o bin/ingot ./cmd/ingot
	@$(STATIC) -tags nethttpomithttp2 -ldflags '-s -w' -o bin/ingot-init ./cmd/ingot-init

man: build ## write the manual pages to bin/man (reproducible: their date is the last commit's)
	@rm -rf bin/man
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 0) bin/ingot man bin/man

install: man ## install programs, units, manual pages and completion below DESTDIR, for packagers and hosts
	@packaging/install '$(DESTDIR)'

test: setup build ## unit tests, real protocol peers, one BIOS and one UEFI machine booted to healthy
	go vet -tags e2e ./...
	go test ./...
	go test -tags e2e -count=1 -timeout $(E2E_TIMEOUT) -v -run '^TestScene' ./testbuild
	go test -tags e2e -count=1 -timeout $(E2E_TIMEOUT) -v -run '^TestScene' ./testvm

test-unit: ## unit tests alone: seconds, without root
	go test -short ./...

test-all: build ## everything: race detector, all firmwares, every fault scene, node images, an arm64 machine
	@scripts/setup all
	go vet -tags e2e ./...
	go test -race -count=1 -timeout 30m ./...
	INGOT_TEST_ALL=1 go test -count=1 -timeout 60m -v $(LONGER)
	@$(MAKE) --no-print-directory -j 2 test-all-builds test-all-machines

# Virtual machines run beside everything else that waits now and then.
test-all-builds:
	INGOT_TEST_ALL=1 go test -tags e2e -count=1 -timeout 75m -v ./testbuild
	INGOT_TEST_STATE=memory go test -count=1 -timeout 60m -skip '^TestBrowser' ./bootserver ./bootserver/booter
	INGOT_TEST_ALL=1 go test -count=1 -timeout 60m -v -run '^TestHistories$$' ./bootserver
	INGOT_TEST_ALL=1 go test -count=1 -timeout 60m -v \
		-run '^(TestFaults|TestRolloutsOfAKilledServer|TestRogueServerGoes)$$' ./cmd/ingot
test-all-machines:
	INGOT_TEST_ALL=1 go test -tags e2e -count=1 -timeout 75m -v -parallel 3 ./testvm

soak: ## longer tests, at most an hour at a time: make soak SCENE=histories (none: which there are)
	@scripts/soak '$(SCENE)' $(TOTAL)

demo: ## the whole loop on an isolated LAN: build, PXE-boot, upgrade, roll back
	@scripts/setup
	@$(MAKE) --no-print-directory build
	@exec bin/ingot demo

lab: ## start a lab with one BIOS and one UEFI machine (see bin/ingot lab --help)
	@scripts/setup
	@$(MAKE) --no-print-directory build
	@exec bin/ingot lab up

bench: build ## benchmarks; compare two runs with benchstat
	@scripts/setup bench
	go test -run '^$$' -bench . -benchmem -timeout 90m ./...
	go test -tags e2e -run '^$$' -bench . -benchtime 3x -timeout 30m -v ./testvm

release: ## make a release in dist/ and tag it: make release VERSION=1.2.0 (PUSH=1 also pushes the tag)
	@scripts/release '$(if $(filter command environment,$(origin VERSION)),$(VERSION))'

lint: ## gofmt, staticcheck and golangci-lint at the versions of tools/go.mod
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	go tool -modfile=tools/go.mod staticcheck -tags e2e ./...
	go tool -modfile=tools/go.mod golangci-lint run ./...

clean: ## remove what make build and make release made
	@rm -rf bin dist
