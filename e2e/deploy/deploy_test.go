// Package deploy deploys the stack: AWS's own expansion of template.yaml, by AWS's own CLI, into MiniStack, a
// stand-in for AWS that creates what CloudFormation would and runs the functions. expand.py has the work-arounds.
//
// What MiniStack does otherwise than AWS is not shown here: it enforces no role; it puts nothing of the authorizer's
// context into a gateway response (a 403 for a path outside the policy); it answers a preflight without headers; it
// keeps no access log. local/ does these, and e2e tests them there.
package deploy

import (
	"archive/zip"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	root     = "../.."
	stack    = "bb-trial"
	stage    = "trial"
	domain   = "api.example.org"
	email    = "ann@example.org"
	password = "Trial-horse-1"
)

// parameters give a deployment of all there is: a condition that is false would leave resources out.
func (c *cloud) parameters(t *testing.T) []string {
	t.Helper()
	certificate := c.aws(t, "acm", "request-certificate", "--domain-name", domain, "--query", "CertificateArn", "--output", "text")
	zone := c.aws(t, "route53", "create-hosted-zone", "--name", "example.org", "--caller-reference", "1", "--query", "HostedZone.Id", "--output", "text")
	return []string{
		"Stage=" + stage, "Arch=" + map[string]string{"amd64": "x86_64", "arm64": "arm64"}[runtime.GOARCH],
		"MailFrom=bb@example.org", "FirstUserEmail=" + email, "FirstUserPassword=" + password,
		"DomainName=" + domain, "DomainCertificateArn=" + certificate, "HostedZoneId=" + strings.TrimPrefix(zone, "/hostedzone/"),
		"FirewallRate=1000", "PkiHttp=true", "DeletionProtection=false",
	}
}

func TestDeployment(t *testing.T) {
	t.Parallel()
	fetchTools(t)
	c := startCloud(t)
	c.aws(t, "s3", "mb", "s3://code")
	parameters := c.parameters(t)

	first := c.release(t, "1", 30, parameters)
	for _, r := range first.LeftOut {
		t.Logf("left out: %s, %s: %s", r.ID, r.Type, r.Reason)
	}
	outputs := c.deploy(t, first)
	c.checkStack(t, first)
	c.checkFunctions(t, first)
	c.checkServices(t, first)
	c.checkOutputs(t, first, outputs)

	a := api{url: c.url + "/_aws/execute-api/" + c.apiID(t, stack) + "/" + stage}
	a.expect(t, 200, `{"data":{"status":"ok"}}`, "GET", "/health", "")
	a.expect(t, 404, `"code":4001`, "GET", "/no/such/path", "")
	refused := a.expect(t, 401, `"what":"invalid token"`, "GET", "/apiv1/me", "")
	if got := refused.header.Get("WWW-Authenticate"); got != `Bearer realm="bb"` {
		t.Errorf("WWW-Authenticate: %q", got)
	}
	api{url: c.url, host: domain}.expect(t, 401, `"what":"invalid token"`, "GET", "/apiv1/me", "")
	login := a.expect(t, 200, email, "POST", "/auth/general", fmt.Sprintf(`{"action":"login","email":%q,"password":%q}`, email, password))
	session := "Cookie: " + login.header.Get("Set-Cookie")
	kept, deleted := a.key(t, session), a.key(t, session)
	a.expect(t, 200, `"kind":"apikey"`, "GET", "/apiv1/me", "", bearer(deleted.Token))
	a.expect(t, 401, `"what":"invalid token"`, "GET", "/apiv1/me", "", bearer(deleted.Token[:len(deleted.Token)-1]))
	a.expect(t, 401, `"what":"invalid token"`, "GET", "/apiv1/me", "", bearer(altered(deleted.Token)))
	a.expect(t, 403, `"required":"certs.write"`, "POST", keys, `{"name":"more","permissions":["certs.write"]}`, bearer(deleted.Token))
	a.expect(t, 204, "", "DELETE", fmt.Sprintf("%s/%d", keys, deleted.ID), "", session)
	a.expect(t, 401, `"what":"invalid token"`, "GET", "/apiv1/me", "", bearer(deleted.Token))

	// A private CA, whose ACME server is at the second API. MiniStack decodes no binary answers, such as the CRL.
	a.expect(t, 201, `"status":"ACTIVE"`, "POST", "/apiv1/users/1/cas", `{"name":"root"}`, session)
	pki := api{url: c.url + "/_aws/execute-api/" + c.apiID(t, stack+"-pki") + "/" + stage}
	pki.expect(t, 200, `"newNonce":"https://`, "GET", "/1/acme/directory", "")

	// Another release, of other code and with another value for a parameter.
	second := c.release(t, "2", 7, parameters)
	if updated := c.deploy(t, second); !maps.Equal(updated, outputs) {
		t.Errorf("the outputs were %v, after the update they are %v", outputs, updated)
	}
	c.checkStack(t, second)
	c.checkFunctions(t, second)
	c.checkAliases(t, second)
	if got, want := c.count(t, "logs describe-log-groups", "logGroups[?retentionInDays==`7`]"), len(second.ofType("AWS::Logs::LogGroup")); got != want {
		t.Errorf("%d log groups of %d have the new retention", got, want)
	}
	a.expect(t, 200, `"kind":"apikey"`, "GET", "/apiv1/me", "", bearer(kept.Token))
	a.expect(t, 401, `"what":"invalid token"`, "GET", "/apiv1/me", "", bearer(deleted.Token))

	c.delete(t, second)
	c.checkDeleted(t, second, outputs)
	if r := a.call(t, "GET", "/health", ""); r.status == http.StatusOK {
		t.Error("the deleted API still answers")
	}
}

// A release is a template as it is deployed, and the code it names.
type release struct {
	file       string
	code       string
	parameters []string
	archives   map[string]string // of each function, the SHA-256 in base64

	// What expand.py reports.
	Resources map[string]struct{ Type, Condition, DeletionPolicy string } // as AWS would have them
	Added     []string
	LeftOut   []struct{ ID, Type, Reason string }
	Routes    int
}

// release expands the template and uploads the functions.
func (c *cloud) release(t *testing.T, code string, retention int, parameters []string) *release {
	t.Helper()
	r := &release{
		file: filepath.Join(t.TempDir(), "template.json"), code: code, archives: map[string]string{},
		parameters: append(slices.Clone(parameters), "LogRetentionDays="+strconv.Itoa(retention)),
	}
	command := exec.CommandContext(t.Context(), filepath.Join(root, ".tools/venv/bin/python"),
		append([]string{"expand.py", filepath.Join(root, "template.yaml"), "s3://code/" + code, r.file}, r.parameters...)...)
	var problems bytes.Buffer
	command.Stderr = &problems
	output, err := command.Output()
	if err != nil {
		t.Fatalf("expand.py: %v\n%s", err, &problems)
	}
	if err := json.Unmarshal(output, r); err != nil {
		t.Fatalf("expand.py: %v", err)
	}
	folder := t.TempDir()
	for name := range r.ofType("AWS::Lambda::Function") {
		archive := archive(t, name, code)
		if err := os.WriteFile(filepath.Join(folder, name+".zip"), archive, 0o600); err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(archive)
		r.archives[name] = base64.StdEncoding.EncodeToString(digest[:])
	}
	c.aws(t, "s3", "cp", "--recursive", "--only-show-errors", folder, "s3://code/"+code)
	return r
}

// archive is a function as Lambda takes it. The name of the release is in it, so that each has code of its own.
func archive(t *testing.T, function, code string) []byte {
	t.Helper()
	bootstrap, err := os.ReadFile(filepath.Join(root, "build", function, "bootstrap"))
	if err != nil {
		t.Fatalf("function %s is not among those that make build makes: %v", function, err)
	}
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	for name, content := range map[string][]byte{"bootstrap": bootstrap, "release": []byte(code)} {
		header := &zip.FileHeader{Name: name} // stored as it is: packing would take longer than all else
		header.SetMode(0o755)
		file, err := w.CreateHeader(header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

// ofType are the logical ids of a type's resources.
func (r *release) ofType(kind string) map[string]bool {
	ids := map[string]bool{}
	for id, resource := range r.Resources {
		if resource.Type == kind {
			ids[id] = true
		}
	}
	return ids
}

// created are the logical ids of what MiniStack is to create.
func (r *release) created() []string {
	ids := map[string]bool{}
	for id := range r.Resources {
		ids[id] = true
	}
	for _, id := range r.Added {
		ids[id] = true
	}
	for _, left := range r.LeftOut {
		delete(ids, left.ID)
	}
	return slices.Sorted(maps.Keys(ids))
}

// deploy creates or updates the stack and gives its outputs.
func (c *cloud) deploy(t *testing.T, r *release) map[string]string {
	t.Helper()
	c.aws(t, append([]string{
		"cloudformation", "deploy", "--stack-name", stack, "--template-file", r.file, "--s3-bucket", "code",
		"--capabilities", "CAPABILITY_IAM", "--parameter-overrides",
	}, r.parameters...)...)
	var answer struct {
		Stacks []struct {
			StackStatus string
			Outputs     []struct{ OutputKey, OutputValue string }
		}
	}
	c.ask(t, &answer, "cloudformation", "describe-stacks", "--stack-name", stack)
	if len(answer.Stacks) != 1 || !slices.Contains([]string{"CREATE_COMPLETE", "UPDATE_COMPLETE"}, answer.Stacks[0].StackStatus) {
		t.Fatalf("stacks: %+v", answer.Stacks)
	}
	outputs := map[string]string{}
	for _, o := range answer.Stacks[0].Outputs {
		outputs[o.OutputKey] = o.OutputValue
	}
	return outputs
}

// checkStack fails for a resource of the template that CloudFormation has not created.
func (c *cloud) checkStack(t *testing.T, r *release) {
	t.Helper()
	var answer struct {
		StackResources []struct{ LogicalResourceId, PhysicalResourceId, ResourceStatus string }
	}
	c.ask(t, &answer, "cloudformation", "describe-stack-resources", "--stack-name", stack)
	var created []string
	for _, resource := range answer.StackResources {
		if resource.ResourceStatus == "CREATE_COMPLETE" || resource.ResourceStatus == "UPDATE_COMPLETE" {
			created = append(created, resource.LogicalResourceId)
		} else {
			t.Errorf("%s: %s", resource.LogicalResourceId, resource.ResourceStatus)
		}
	}
	slices.Sort(created)
	for _, id := range r.created() {
		if _, found := slices.BinarySearch(created, id); !found {
			t.Errorf("%s is not created: type %s, condition %q", id, r.Resources[id].Type, r.Resources[id].Condition)
		}
	}
	if len(created) != len(r.created()) {
		t.Errorf("%d resources are created of %d", len(created), len(r.created()))
	}
}

// checkFunctions asks Lambda for what CloudFormation says that it created.
func (c *cloud) checkFunctions(t *testing.T, r *release) {
	t.Helper()
	var functions []struct {
		FunctionName, Runtime, Handler, Role, CodeSha256 string
		Environment                                      struct{ Variables map[string]string }
	}
	c.ask(t, &functions, "lambda", "list-functions", "--query", "Functions")
	if len(functions) != len(r.archives) {
		t.Errorf("%d functions, want %d", len(functions), len(r.archives))
	}
	for _, f := range functions {
		// CloudFormation's name for a function is STACK-ID-RANDOM.
		id, _, _ := strings.Cut(strings.TrimPrefix(f.FunctionName, stack+"-"), "-")
		if f.CodeSha256 != r.archives[id] {
			t.Errorf("%s does not have the code of release %s", f.FunctionName, r.code)
		}
		if f.Runtime != "provided.al2023" || f.Handler != "bootstrap" || f.Environment.Variables["STAGE"] != stage || !strings.Contains(f.Role, ":role/"+stack+"-") {
			t.Errorf("%+v", f)
		}
	}
}

// checkAliases fails for an alias that does not lead to the code of the release.
func (c *cloud) checkAliases(t *testing.T, r *release) {
	t.Helper()
	var aliases []string
	c.ask(t, &aliases, "cloudformation", "describe-stack-resources", "--stack-name", stack,
		"--query", "StackResources[?ResourceType=='AWS::Lambda::Alias'].PhysicalResourceId")
	if want := len(r.ofType("AWS::Lambda::Alias")); len(aliases) != want {
		t.Errorf("%d aliases of %d", len(aliases), want)
	}
	for _, alias := range aliases {
		digest := c.aws(t, "lambda", "get-function-configuration", "--function-name", alias, "--query", "CodeSha256", "--output", "text")
		if !slices.Contains(slices.Collect(maps.Values(r.archives)), digest) {
			t.Errorf("%s does not lead to the code of release %s", alias, r.code)
		}
	}
}

// checkServices asks other services for what CloudFormation says that it created.
func (c *cloud) checkServices(t *testing.T, r *release) {
	t.Helper()
	for _, kind := range []struct{ resource, command, list string }{
		{"AWS::IAM::Role", "iam list-roles", "Roles"},
		{"AWS::DynamoDB::Table", "dynamodb list-tables", "TableNames"},
		{"AWS::CloudWatch::Alarm", "cloudwatch describe-alarms", "MetricAlarms"},
		{"AWS::Logs::LogGroup", "logs describe-log-groups", "logGroups[?retentionInDays==`30`]"},
	} {
		want := len(r.ofType(kind.resource))
		if got := c.count(t, kind.command, kind.list); got != want || want == 0 {
			t.Errorf("%s: aws %s has %d of %d", kind.resource, kind.command, got, want)
		}
	}
	id := c.apiID(t, stack)
	responses, routes := 0, 0
	for _, one := range []string{id, c.apiID(t, stack+"-pki")} {
		responses += c.count(t, "apigateway get-gateway-responses --rest-api-id "+one, "items[?!defaultResponse]")
		routes += c.count(t, "apigateway get-resources --embed methods --rest-api-id "+one, "items[?resourceMethods.GET.methodIntegration.uri]")
	}
	if responses != len(r.Added) || responses == 0 {
		t.Errorf("%d gateway responses of %d", responses, len(r.Added))
	}
	if routes != r.Routes || routes == 0 {
		t.Errorf("%d routes of %d", routes, r.Routes)
	}
	// A key that is deleted is refused at once only where the authorizer's answers are not kept.
	if got := c.count(t, "apigateway get-authorizers --rest-api-id "+id, "items[?type=='REQUEST' && authorizerResultTtlInSeconds==`0`]"); got != 1 {
		t.Errorf("%d authorizers without a cache", got)
	}
	var stages []string
	c.ask(t, &stages, "apigateway", "get-stages", "--rest-api-id", id, "--query", "item[].stageName")
	if !slices.Equal(stages, []string{stage}) {
		t.Errorf("stages: %v", stages)
	}
}

// count gives the length of a list in what a command prints.
func (c *cloud) count(t *testing.T, command, list string) int {
	t.Helper()
	var n int
	c.ask(t, &n, append(strings.Fields(command), "--query", "length("+list+")")...)
	return n
}

// apiID is the id of the one API there is.
func (c *cloud) apiID(t *testing.T, name string) string {
	t.Helper()
	var ids []string
	c.ask(t, &ids, "apigateway", "get-rest-apis", "--query", "items[?name=='"+name+"'].id")
	if len(ids) != 1 {
		t.Fatalf("APIs: %v", ids)
	}
	return ids[0]
}

// checkOutputs fails for an output that names something else than what there is.
func (c *cloud) checkOutputs(t *testing.T, r *release, outputs map[string]string) {
	t.Helper()
	if want := "https://" + domain; outputs["URL"] != want {
		t.Errorf("output URL is %q, want %q", outputs["URL"], want)
	}
	var tables []string
	c.ask(t, &tables, "dynamodb", "list-tables", "--query", "TableNames")
	for table := range r.ofType("AWS::DynamoDB::Table") {
		if !slices.Contains(tables, outputs[table]) {
			t.Errorf("output %s is %q, and the tables are %v", table, outputs[table], tables)
		}
	}
}

// delete deletes the stack and waits for it.
func (c *cloud) delete(t *testing.T, r *release) {
	t.Helper()
	id := c.aws(t, "cloudformation", "describe-stacks", "--stack-name", stack, "--query", "Stacks[0].StackId", "--output", "text")
	c.aws(t, "cloudformation", "delete-stack", "--stack-name", stack)
	c.aws(t, "cloudformation", "wait", "stack-delete-complete", "--stack-name", id)
	var answer struct {
		StackEvents []struct{ LogicalResourceId, ResourceStatus, ResourceStatusReason string } // newest first
	}
	c.ask(t, &answer, "cloudformation", "describe-stack-events", "--stack-name", id)
	last := map[string]string{}
	for _, event := range answer.StackEvents {
		last[event.LogicalResourceId] = cmp.Or(last[event.LogicalResourceId], event.ResourceStatus)
	}
	for _, id := range r.created() {
		want := "DELETE_COMPLETE"
		if r.Resources[id].DeletionPolicy == "Retain" {
			want = "DELETE_SKIPPED"
		}
		if last[id] != want {
			t.Errorf("%s ends as %s, want %s", id, last[id], want)
		}
	}
}

// checkDeleted fails for what is left of the stack, but for what its template retains.
func (c *cloud) checkDeleted(t *testing.T, r *release, outputs map[string]string) {
	t.Helper()
	if _, err := c.tryAWS("cloudformation", "describe-stacks", "--stack-name", stack); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("the stack is still there: %v", err)
	}
	for _, kind := range []struct{ resource, command, list string }{
		{"AWS::Lambda::Function", "lambda list-functions", "Functions"},
		{"AWS::ApiGateway::RestApi", "apigateway get-rest-apis", "items"},
		{"AWS::IAM::Role", "iam list-roles", "Roles"},
		{"AWS::CloudWatch::Alarm", "cloudwatch describe-alarms", "MetricAlarms"},
		{"AWS::Logs::LogGroup", "logs describe-log-groups", "logGroups"},
	} {
		retained := 0
		for id := range r.ofType(kind.resource) {
			if r.Resources[id].DeletionPolicy == "Retain" {
				retained++
			}
		}
		if got := c.count(t, kind.command, kind.list); got != retained {
			t.Errorf("%s: %d are left, the template retains %d", kind.resource, got, retained)
		}
	}
	var tables []string
	c.ask(t, &tables, "dynamodb", "list-tables", "--query", "TableNames")
	for id := range r.ofType("AWS::DynamoDB::Table") {
		if kept := slices.Contains(tables, outputs[id]); kept != (r.Resources[id].DeletionPolicy == "Retain") {
			t.Errorf("%s: kept: %t, its DeletionPolicy is %q", id, kept, r.Resources[id].DeletionPolicy)
		}
	}
}

const keys = "/apiv1/users/1/apikeys"

// An api is called at its address, or at that of a domain's with the domain as the host.
type api struct{ url, host string }

type reply struct {
	status int
	header http.Header
	body   string
}

var client = &http.Client{Timeout: 30 * time.Second}

// call makes a request; headers are "Name: value".
func (a api) call(t *testing.T, method, path, body string, headers ...string) reply {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, a.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Host = a.host
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Set(name, value)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{response.StatusCode, response.Header, string(answer)}
}

// expect makes a request that must be answered with a status and a body that has a text in it.
func (a api) expect(t *testing.T, status int, text, method, path, body string, headers ...string) reply {
	t.Helper()
	r := a.call(t, method, path, body, headers...)
	if r.status != status || !strings.Contains(r.body, text) {
		t.Fatalf("%s %s: %d %s, want %d %s", method, path, r.status, r.body, status, text)
	}
	return r
}

type key struct {
	ID    int64  `json:"id"`
	Token string `json:"token"`
}

// key makes an API key of the first user.
func (a api) key(t *testing.T, session string) key {
	t.Helper()
	r := a.expect(t, 201, `"token":"ak_1_`, "POST", keys, `{"name":"trial","permissions":["certs.read","apikeys.write"],"expires_in_seconds":3600}`, session)
	var made struct{ Data key }
	if err := json.Unmarshal([]byte(r.body), &made); err != nil {
		t.Fatal(err)
	}
	return made.Data
}

func bearer(token string) string { return "Authorization: Bearer " + token }

// altered is a token with another secret, whose checksum is therefore wrong.
func altered(token string) string {
	at := len(token) - 20
	other := "A"
	if token[at] == 'A' {
		other = "B"
	}
	return token[:at] + other + token[at+1:]
}
