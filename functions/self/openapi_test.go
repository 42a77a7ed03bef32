package main

import (
	"testing"

	"cjj365.cc/bb/shared/openapitest"
)

func TestOpenAPI(t *testing.T) {
	openapitest.Check(t, "self", (&handler{}).routes())
}
