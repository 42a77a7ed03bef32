package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"cjj365.cc/bb/local/template"
)

// resources are template.yaml's, with intrinsic functions left as they are written.
func resources(t *testing.T) (parameters, resources map[string]any) {
	t.Helper()
	text, err := os.ReadFile("../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var whole struct {
		Parameters map[string]any `yaml:"Parameters"`
		Resources  map[string]any `yaml:"Resources"`
	}
	if err := yaml.Unmarshal(text, &whole); err != nil {
		t.Fatal(err)
	}
	return whole.Parameters, whole.Resources
}

// at walks into nested maps.
func at(v any, names ...string) any {
	for _, name := range names {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

func strs(v any) []string {
	if s, ok := v.(string); ok {
		return []string{s}
	}
	var list []string
	items, _ := v.([]any)
	for _, i := range items {
		list = append(list, fmt.Sprint(i))
	}
	return list
}

// TestEachFunctionHasARoleOfItsOwnWithoutWildcards is a check that neither cfn-lint nor sam validate
// makes: they pass a role that allows everything.
func TestEachFunctionHasARoleOfItsOwnWithoutWildcards(t *testing.T) {
	_, all := resources(t)
	roles := map[string]string{}
	for name, r := range all {
		if at(r, "Type") == "AWS::Serverless::Function" {
			role := fmt.Sprint(at(r, "Properties", "Role"))
			if other, taken := roles[role]; taken {
				t.Errorf("%s and %s share the role %s", name, other, role)
			}
			roles[role] = name
			if role != name+"Role.Arn" {
				t.Errorf("%s has the role %s", name, role)
			}
			if at(all[name+"Log"], "Properties", "RetentionInDays") == nil {
				t.Errorf("%s has no log group with a retention", name)
			}
		}
		if at(r, "Type") != "AWS::IAM::Role" {
			continue
		}
		policies, _ := at(r, "Properties", "Policies").([]any)
		for _, p := range policies {
			statements, _ := at(p, "PolicyDocument", "Statement").([]any)
			for _, s := range statements {
				for _, action := range strs(at(s, "Action")) {
					if strings.Contains(action, "*") {
						t.Errorf("%s allows %s", name, action)
					}
				}
				for _, resource := range strs(at(s, "Resource")) {
					// X-Ray has no resources to name, and a key that is not made yet has none: its tag is a condition.
					actions := strs(at(s, "Action"))
					makesKeys := slices.Equal(actions, []string{"kms:CreateKey", "kms:TagResource"}) && at(s, "Condition", "StringEquals", "aws:RequestTag/bb") != nil
					if resource == "*" && !makesKeys && !slices.Equal(actions, []string{"xray:PutTraceSegments", "xray:PutTelemetryRecords"}) {
						t.Errorf("%s allows %v on everything", name, actions)
					}
				}
			}
		}
	}
	if len(roles) < 7 {
		t.Errorf("only %d functions were looked at", len(roles))
	}
}

func TestTablesAreKept(t *testing.T) {
	_, all := resources(t)
	tables := 0
	for name, r := range all {
		if at(r, "Type") != "AWS::DynamoDB::Table" {
			continue
		}
		tables++
		if at(r, "Properties", "PointInTimeRecoverySpecification", "PointInTimeRecoveryEnabled") != true ||
			at(r, "Properties", "DeletionProtectionEnabled") == nil || at(r, "DeletionPolicy") != "Retain" || at(r, "UpdateReplacePolicy") != "Retain" ||
			at(r, "Properties", "SSESpecification", "SSEType") != "KMS" || at(r, "Properties", "TimeToLiveSpecification", "Enabled") != true {
			t.Errorf("%s can be lost", name)
		}
	}
	if tables != 2 {
		t.Errorf("%d tables", tables)
	}
}

func TestNoSecretHasADefault(t *testing.T) {
	parameters, _ := resources(t)
	for name, p := range parameters {
		if at(p, "NoEcho") == true && at(p, "Default") != "" {
			t.Errorf("%s has the default %v", name, at(p, "Default"))
		}
		if regexp.MustCompile(`(?i)password|secret|token`).MatchString(name) && at(p, "NoEcho") != true {
			t.Errorf("%s is echoed", name)
		}
	}
}

// TestEveryRefusalOfTheGatewayHasTheEnvelope renders each gateway response with the values that the
// authorizer sends and reads it as a client would.
func TestEveryRefusalOfTheGatewayHasTheEnvelope(t *testing.T) {
	parsed, err := template.Read("../template.yaml", template.Options{Parameters: map[string]string{"MailFrom": "bb@example.test"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"ACCESS_DENIED", "AUTHORIZER_CONFIGURATION_ERROR", "AUTHORIZER_FAILURE", "BAD_REQUEST_BODY", "BAD_REQUEST_PARAMETERS", "DEFAULT_4XX", "DEFAULT_5XX",
		"INTEGRATION_FAILURE", "INTEGRATION_TIMEOUT", "MISSING_AUTHENTICATION_TOKEN", "QUOTA_EXCEEDED", "REQUEST_TOO_LARGE", "RESOURCE_NOT_FOUND",
		"THROTTLED", "UNAUTHORIZED", "UNSUPPORTED_MEDIA_TYPE",
	}
	for _, kind := range want {
		g, ok := parsed.API.GatewayResponses[kind]
		if !ok {
			t.Errorf("%s has no answer of its own", kind)
			continue
		}
		body := strings.NewReplacer("$context.authorizer.denied_code", "4003", "$context.authorizer.denied_what", "x").Replace(g.Body)
		var envelope struct {
			Error struct {
				Code   int
				What   string
				Key    string
				Params map[string]any
			}
		}
		if err := json.Unmarshal([]byte(body), &envelope); err != nil || envelope.Error.Code == 0 || envelope.Error.What == "" || envelope.Error.Key == "" || envelope.Error.Params == nil {
			t.Errorf("%s: %s: %v", kind, g.Body, err)
		}
	}
}

// TestAMissingPermissionIsFound takes one permission from one role: the call that needs it fails as it
// would on AWS, and nothing else does.
func TestAMissingPermissionIsFound(t *testing.T) {
	text, err := os.ReadFile("../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	before, role, found := strings.Cut(string(text), "\n  ApiKeysRole:")
	if !found || !strings.Contains(role, `"dynamodb:DeleteItem", `) {
		t.Fatal("ApiKeysRole does not allow deletions: this test looks at the wrong thing")
	}
	broken := before + "\n  ApiKeysRole:" + strings.Replace(role, `"dynamodb:DeleteItem", `, "", 1)
	folder := t.TempDir()
	if err := os.WriteFile(folder+"/template.yaml", []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := startTemplate(folder+"/template.yaml", folder+"/state", "BB_MEMORY=1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	owner := s.login(t)
	id, token := s.key(t, owner, `{"name":"x","permissions":[]}`)
	r := s.mustCall(t, "DELETE", fmt.Sprintf("/apiv1/users/1/apikeys/%d", id), "", owner)
	if r.Status != 500 || r.Error.Key != "INTERNAL" || strings.Contains(string(r.Body), "DeleteItem") {
		t.Errorf("delete without the permission: %d %s", r.Status, r.Body)
	}
	if r := s.mustCall(t, "GET", "/apiv1/me", "", "Authorization: Bearer "+token); r.Status != 200 {
		t.Errorf("the key that could not be deleted: %d %s", r.Status, r.Body)
	}
}

// TestEachAlarmIsInTheRunbook: an alarm that nobody explains wakes somebody who cannot help.
func TestEachAlarmIsInTheRunbook(t *testing.T) {
	text, err := os.ReadFile("../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	_, all := resources(t)
	alarms := 0
	for name, r := range all {
		if at(r, "Type") != "AWS::CloudWatch::Alarm" {
			continue
		}
		alarms++
		if !regexp.MustCompile(`\b` + name + `\b`).Match(text) {
			t.Errorf("docs/runbook.md does not explain %s", name)
		}
	}
	if alarms < 15 {
		t.Errorf("only %d alarms", alarms)
	}
}
