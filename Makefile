# make run    the whole stack on this machine      make test   every test
# make bench  the table of ratios                  make lint   vet, staticcheck, cfn-lint, sam validate

MODULE    := cjj365.cc/bb
FUNCTIONS := Authorizer Auth ApiKeys Me Health Docs FirstUser
TOOLS     := .tools
# Where the logical name of template.yaml and the folder differ in more than case and place.
FOLDER     = $(if $(filter Authorizer,$*),authorizer,functions/$(shell echo $* | tr A-Z a-z))
# SAM builds for the machine named by Arch; on its own make builds for this one.
GOARCH    ?= $(shell go env GOARCH)

.PHONY: run reset test lint bench build tools openapi sam-validate clean

# sam build calls build-NAME with ARTIFACTS_DIR; make build calls it for each function.
build-%:
	@mkdir -p $(or $(ARTIFACTS_DIR),build/$*)
	@CGO_ENABLED=0 GOOS=$(or $(BB_GOOS),linux) GOARCH=$(or $(BB_GOARCH),arm64) \
	  go build -trimpath -buildvcs=false -tags lambda.norpc -ldflags='-s -w -buildid=' \
	  -o $(or $(ARTIFACTS_DIR),build/$*)/bootstrap ./$(FOLDER)

build: $(addprefix .build-,$(FUNCTIONS))

.build-%:
	@BB_GOOS=$(shell go env GOOS) BB_GOARCH=$(GOARCH) $(MAKE) --no-print-directory build-$*
