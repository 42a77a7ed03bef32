# make run    the whole stack on this machine; Ctrl-C ends it, make reset forgets what it kept
# make test   every test                 make lint   vet, staticcheck, cfn-lint, sam validate, checkov
# make bench  the table of ratios        make fuzz   each fuzz test for a while (FUZZTIME=1m)
# make sam-test  e2e/scripts against AWS's own sam local, where a container engine is to be had

FUNCTIONS := Authorizer Auth ApiKeys Me Health Docs FirstUser AcmeAccounts DnsProviders DnsProbe Certificates Devices Self Updates Issuer Renewals Cas Acme Ocsp Pki Crls Webhooks Notices
JARS      := .tools/dynamodb/.complete
VENV      := .tools/venv/.complete
MINISTACK := .tools/ministack/.complete
CHECKOV   := .tools/checkov/.complete
PEBBLE    := .tools/pebble/.complete
FUZZTIME  ?= 20s
SOURCES   := $(shell find authorizer functions shared -name '*.go' -not -name '*_test.go' -o -name '*.json' -path '*/openapi/*' -o -name '*.pem')

.PHONY: run reset test sam-test lint bench fuzz build local knot certbot openapi clean

run: build local $(JARS) $(MINISTACK) $(PEBBLE) knot
	@exec build/local

reset: local
	@build/local reset

# make test RACE=-race watches for data races. Without Python the test of e2e/deploy is skipped.
test: $(JARS) $(MINISTACK) $(PEBBLE) $(VENV) knot certbot
	@go tool gotestsum --format pkgname -- $(RACE) -timeout 15m ./...

# The scripts of e2e/ against sam local; says why where there is no container engine.
sam-test: $(JARS) $(VENV)
	@go build -o build/samtest ./local/samtest && exec build/samtest

lint: $(VENV) $(CHECKOV)
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt'; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	.tools/venv/bin/cfn-lint template.yaml
	AWS_DEFAULT_REGION=us-east-1 SAM_CLI_TELEMETRY=0 .tools/venv/bin/sam validate --lint
	.tools/checkov/bin/checkov -f template.yaml --config-file .checkov.yaml

bench: $(JARS) $(MINISTACK) $(PEBBLE) build local
	@go run ./bench

# Every fuzz test there is, one after the other.
fuzz: $(JARS) $(PEBBLE)
	@go list ./... | while read -r package; do \
	  go test -list '^Fuzz' "$$package" | grep '^Fuzz' | while read -r name; do \
	    echo "$$package $$name"; go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$package" || exit 1; done || exit 1; done

# Writes functions/docs/openapi anew from the code.
openapi:
	@BB_UPDATE_OPENAPI=1 go test -run '^TestOpenAPI$$' ./functions/...

# --- Functions -----------------------------------------------------------------------------------

# sam build calls build-NAME with ARTIFACTS_DIR, for Lambda; make build builds all for this machine.
# Nothing of the machine is in the binary: two builds of the same source are the same bytes.
FOLDER = $(if $(filter Authorizer,$*),authorizer,functions/$(shell echo $* | tr A-Z a-z))
build-%:
	@mkdir -p $(or $(ARTIFACTS_DIR),build/lambda/$*)
	@CGO_ENABLED=0 GOOS=linux GOARCH=$(or $(BB_GOARCH),arm64) GOFLAGS= \
	  go build -trimpath -buildvcs=false -tags lambda.norpc -ldflags='-s -w -buildid=' \
	  -o $(or $(ARTIFACTS_DIR),build/lambda/$*)/bootstrap ./$(FOLDER)

build: $(FUNCTIONS:%=build/%/bootstrap)

# Moved into place, since the tests of two packages may build at once.
build/%/bootstrap: $(SOURCES) go.mod go.sum template.yaml
	@mkdir -p $(@D)
	@CGO_ENABLED=0 GOFLAGS= go build -trimpath -buildvcs=false -tags lambda.norpc -ldflags='-s -w -buildid=' -o $@.$$$$ ./$(FOLDER) && mv $@.$$$$ $@

local:
	@go build -o build/local ./local

# --- Tools: fetched once, by the ordinary package clients, into .tools ----------------------------

$(JARS): local/dynamodb/pom.xml
	@command -v mvn >/dev/null || { echo 'bb: Maven is missing; install it (Debian: apt install maven, macOS: brew install maven)' >&2; exit 1; }
	@echo 'fetching DynamoDB Local'
	@mvn -q -B -Dstyle.color=never -f local/dynamodb/pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/.tools/dynamodb
	@touch $@

# Pebble is Let's Encrypt's ACME server for tests; pebble-challtestsrv is its DNS server.
$(PEBBLE):
	@echo 'building Pebble'
	@GOBIN=$(CURDIR)/.tools/pebble CGO_ENABLED=0 GOFLAGS= go install -trimpath \
	  github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1 github.com/letsencrypt/pebble/v2/cmd/pebble-challtestsrv@v2.10.1
	@touch $@

# Knot, an authoritative DNS server, on Debian where root asks; the service of its package is not wanted.
# The stack runs without it, and its tests are skipped.
knot:
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin"; command -v knotd >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo 'installing Knot DNS'; \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends knot; } >/dev/null 2>&1 \
	    || { echo 'bb: Knot DNS could not be installed; without a server for dynamic updates (apt install knot)' >&2; exit 0; }; \
	  [ ! -d /run/systemd/system ] || systemctl disable -q --now knot; \
	else echo 'bb: Knot DNS is not installed; without a server for dynamic updates (Debian: apt install knot)' >&2; fi

# certbot, an ACME client for the tests of private CAs, on Debian where root asks; its timer is not wanted.
certbot:
	@command -v certbot >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo 'installing certbot'; \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends certbot; } >/dev/null 2>&1 \
	    || { echo 'bb: certbot could not be installed; its tests are skipped (apt install certbot)' >&2; exit 0; }; \
	  [ ! -d /run/systemd/system ] || systemctl disable -q --now certbot.timer; \
	else echo 'bb: certbot is not installed; its tests are skipped (Debian: apt install certbot)' >&2; fi

$(VENV): requirements.txt
	@echo 'fetching the AWS SAM CLI and cfn-lint'
	@python3 -m venv .tools/venv && .tools/venv/bin/pip install -q --disable-pip-version-check -r requirements.txt
	@touch $@

# In a venv of its own: it wants other versions of what the others share.
$(CHECKOV): requirements-checkov.txt
	@echo 'fetching checkov'
	@python3 -m venv .tools/checkov && .tools/checkov/bin/pip install -q --disable-pip-version-check -r $<
	@touch $@

$(MINISTACK): e2e/deploy/requirements.txt
	@echo 'fetching the AWS CLI and MiniStack'
	@python3 -m venv .tools/ministack && .tools/ministack/bin/pip install -q --disable-pip-version-check -r $<
	@touch $@

clean:
	@rm -rf build .aws-sam
