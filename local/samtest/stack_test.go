package main

import (
	"reflect"
	"testing"

	"go.yaml.in/yaml/v3"

	"cjj365.cc/bb/local/template"
)

func TestFunctionsGetWhatSAMLocalDoesNotGive(t *testing.T) {
	const built = `
Resources:
  Read:
    Properties:
      Environment: {Variables: {TABLE: {Ref: Things}, ORIGIN: {Ref: Origin}}}
      CodeUri: Read
  Bare:
    Properties: {CodeUri: Bare}
`
	const want = `
Resources:
  Read:
    Properties:
      Environment: {Variables: {TABLE: bb-Things, ORIGIN: {Ref: Origin}, AWS_ENDPOINT_URL_DYNAMODB: "http://192.0.2.1:8000", AWS_ACCESS_KEY_ID: LOCALRead, AWS_SECRET_ACCESS_KEY: local}}
      CodeUri: Read
  Bare:
    Properties:
      Environment: {Variables: {AWS_ENDPOINT_URL_DYNAMODB: "http://192.0.2.1:8000", AWS_ACCESS_KEY_ID: LOCALBare, AWS_SECRET_ACCESS_KEY: local}}
      CodeUri: Bare
`
	stack := &template.Template{
		Functions: []template.Function{
			{LogicalID: "Read", Environment: map[string]string{"TABLE": "bb-Things", "ORIGIN": "https://x.example"}},
			{LogicalID: "Bare"},
		},
		Tables: []template.Table{{LogicalID: "Things", Name: "bb-Things"}},
	}
	text, err := addVariables([]byte(built), stack, map[string]string{"AWS_ENDPOINT_URL_DYNAMODB": "http://192.0.2.1:8000"})
	if err != nil {
		t.Fatal(err)
	}
	var got, wanted any
	if err := yaml.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(want), &wanted); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, wanted) {
		t.Errorf("%s", text)
	}
	stack.Functions = append(stack.Functions, template.Function{LogicalID: "Absent"})
	if _, err := addVariables([]byte(built), stack, nil); err == nil {
		t.Error("a function that was not built is not missed")
	}
}
