package main

import (
	"encoding/json"
	"testing"
)

// What two functions describe in two ways stops this one at its start.
func TestTheDescriptionsJoin(t *testing.T) {
	document, err := merge(descriptions)
	if err != nil {
		t.Fatal(err)
	}
	var whole description
	if err := json.Unmarshal(document, &whole); err != nil || len(whole.Paths) < 30 {
		t.Errorf("%d paths, %v", len(whole.Paths), err)
	}
}
