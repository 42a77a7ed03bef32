// Package importtest holds the arrows between the packages, as a test. Data flows one way, gateway →
// authorizer → function → domain → store, and a binary carries what its imports name, so an import
// that points the wrong way costs every cold start.
package importtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "cjj365.cc/bb/"

// levels are the packages of a Lambda from the bottom up. A package imports only what stands below it.
var levels = [][]string{
	{"shared/token", "shared/problem", "shared/access", "shared/awsenv", "shared/egress", "shared/environ", "shared/sealed"},
	{
		"shared/acme", "shared/acmeaccount", "shared/apikey", "shared/bucket", "shared/certificate", "shared/device", "shared/devicetoken", "shared/dnsprovider", "shared/dynamo",
		"shared/installconfig", "shared/kmskey", "shared/mail", "shared/ocsp", "shared/pki", "shared/session", "shared/signal", "shared/user", "shared/work",
	},
	{"shared/acmeserver", "shared/ca", "shared/certificate/record", "shared/webhook"},
	{"shared/acmekey", "shared/authn", "shared/dnssolver", "shared/pki/export", "shared/store"},
	{"shared/acmesecret", "shared/casigner", "shared/courier", "shared/delivery", "shared/wire"},
	{"shared/bundle", "shared/closing", "shared/gateway", "shared/idempotency"},
	{"shared/caorder"},
	{
		"authorizer", "functions/acme", "functions/acmeaccounts", "functions/apikeys", "functions/auth", "functions/cas", "functions/certificates", "functions/crls", "functions/dnsprobe", "functions/dnsproviders",
		"functions/devices", "functions/docs", "functions/firstuser", "functions/health", "functions/issuer", "functions/me", "functions/notices",
		"functions/ocsp", "functions/pki", "functions/renewals", "functions/self", "functions/updates", "functions/webhooks",
	},
}

// forTests are packages that tests import and no Lambda does.
var forTests = []string{"shared/storetest", "shared/openapitest", "shared/importtest", "shared/functiontest", "shared/awstest", "shared/catest"}

// only says which packages may import a module of AWS, other than its tests.
var only = map[string][]string{
	"github.com/aws/aws-sdk-go-v2/service/dynamodb": {"shared/store"},
	"github.com/aws/aws-sdk-go-v2/service/kms":      {"shared/kmskey"},
	"github.com/aws/aws-sdk-go-v2/service/s3":       {"shared/bucket"},
	"github.com/aws/aws-sdk-go-v2/service/sesv2":    {"shared/mail"},
	"github.com/aws/aws-sdk-go-v2/service/sqs":      {"shared/work"},
	"github.com/aws/aws-sdk-go-v2/config":           {},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// list runs go list -json over the repository.
func list(t *testing.T) map[string]pkg {
	t.Helper()
	command := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "-tags", "lambda.norpc", "./authorizer", "./functions/...", "./shared/...")
	command.Dir = "../.."
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]pkg{}
	for decoder := json.NewDecoder(strings.NewReader(string(output))); ; {
		var p pkg
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages[strings.TrimPrefix(p.ImportPath, module)] = p
	}
}

func level(name string) int {
	return slices.IndexFunc(levels, func(l []string) bool { return slices.Contains(l, name) })
}

func TestArrowsPointDown(t *testing.T) {
	for name, p := range list(t) {
		from := level(name)
		if from < 0 {
			if !slices.Contains(forTests, name) {
				t.Errorf("%s stands on no level: give it one", name)
			}
			continue
		}
		for _, imported := range p.Imports {
			target, ours := strings.CutPrefix(imported, module)
			if ours && (level(target) < 0 || level(target) >= from) {
				t.Errorf("%s imports %s, which does not stand below it", name, target)
			}
			for prefix, allowed := range only {
				if (imported == prefix || strings.HasPrefix(imported, prefix+"/")) && !slices.Contains(allowed, name) {
					t.Errorf("%s imports %s", name, imported)
				}
			}
		}
	}
}

func TestABinaryHoldsOnlyWhatItNeeds(t *testing.T) {
	packages := list(t)
	for name, forbidden := range map[string][]string{
		"authorizer":        {"github.com/aws/aws-sdk-go-v2", "github.com/danielgtaylor/huma", "text/template", "net/rpc"},
		"functions/me":      {"github.com/aws/aws-sdk-go-v2", module + "shared/dynamo", module + "shared/store", "text/template", "net/rpc"},
		"functions/health":  {"github.com/aws/aws-sdk-go-v2", module + "shared/dynamo", module + "shared/store", "text/template", "net/rpc"},
		"functions/docs":    {"github.com/aws/aws-sdk-go-v2", module + "shared/dynamo", module + "shared/store", "net/rpc"},
		"functions/apikeys": {"github.com/aws/aws-sdk-go-v2/service/sesv2", "text/template", "net/rpc"},
		"functions/auth":    {"text/template", "net/rpc"},
		// Every provider's code is in the issuer and the probe alone.
		"functions/certificates": {"github.com/go-acme/lego/v5", "github.com/aws/aws-sdk-go-v2/service/sesv2", "text/template", "net/rpc"},
		"functions/acmeaccounts": {"github.com/go-acme/lego/v5", "github.com/aws/aws-sdk-go-v2/service/sqs", "text/template", "net/rpc"},
		"functions/dnsproviders": {"github.com/go-acme/lego/v5", "github.com/aws/aws-sdk-go-v2/service/sqs", "text/template", "net/rpc"},
		"functions/webhooks":     {"github.com/go-acme/lego/v5", "github.com/go-jose/go-jose/v4", "text/template", "net/rpc"},
		"functions/renewals":     {"github.com/danielgtaylor/huma/v2", "github.com/go-acme/lego/v5", "github.com/aws/aws-sdk-go-v2/service/kms", "text/template", "net/rpc"},
		"functions/notices":      {"github.com/danielgtaylor/huma/v2", "github.com/go-acme/lego/v5", "github.com/go-jose/go-jose/v4", "text/template", "net/rpc"},
		"functions/issuer":       {"github.com/danielgtaylor/huma/v2", "net/rpc"},
		"functions/cas":          {"github.com/go-acme/lego/v5", "github.com/go-jose/go-jose/v4", "github.com/aws/aws-sdk-go-v2/service/sqs", "text/template", "net/rpc"},
		"functions/acme":         {"github.com/go-acme/lego/v5", "github.com/aws/aws-sdk-go-v2/service/sqs", "github.com/aws/aws-sdk-go-v2/service/sesv2", "text/template", "net/rpc"},
		"functions/crls":         {"github.com/danielgtaylor/huma/v2", "github.com/go-acme/lego/v5", "github.com/go-jose/go-jose/v4", "text/template", "net/rpc"},
		// The responder is out of the CAs' keys' reach, and what is published out of everything's.
		"functions/ocsp":      {module + "shared/casigner", module + "shared/bucket", "github.com/go-acme/lego/v5", "text/template", "net/rpc"},
		"functions/pki":       {module + "shared/store", module + "shared/kmskey", "github.com/aws/aws-sdk-go-v2/service/dynamodb", "text/template", "net/rpc"},
		"functions/firstuser": {"github.com/aws/aws-sdk-go-v2/service/sesv2", "text/template", "net/rpc"},
	} {
		p, ok := packages[name]
		if !ok {
			t.Errorf("there is no %s", name)
		}
		for _, dependency := range p.Deps {
			for _, f := range append(forbidden, module+"local", "testing") {
				if dependency == f || strings.HasPrefix(dependency, f+"/") {
					t.Errorf("%s holds %s", name, dependency)
				}
			}
		}
	}
}
