// Package openapitest keeps the descriptions that functions/docs serves equal to the code.
//
// Each function describes its operations when it registers them. A test of each compares that with the
// file that docs embeds, so a Lambda serves the description of all without holding their code.
// make openapi writes the files anew.
package openapitest

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"cjj365.cc/bb/shared/wire"
)

// Check compares the description of a function's operations with functions/docs/openapi/<name>.json.
// It runs in the function's folder.
func Check(t *testing.T, name string, a *wire.API) {
	t.Helper()
	description, err := json.Marshal(a.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, description, "", " "); err != nil {
		t.Fatal(err)
	}
	indented.WriteByte('\n')
	file := "../docs/openapi/" + name + ".json"
	if os.Getenv("BB_UPDATE_OPENAPI") != "" {
		if err := os.WriteFile(file, indented.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	kept, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(kept, indented.Bytes()) {
		t.Errorf("%s is not what the code says: run make openapi", file)
	}
}
