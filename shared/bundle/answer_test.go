package bundle_test

import (
	"testing"
	"time"

	"cjj365.cc/bb/shared/bundle"
	"cjj365.cc/bb/shared/ca"
)

func TestABundleIsSavedUnderItsName(t *testing.T) {
	for _, test := range []struct{ pack, sealed, plain, ca string }{
		{"download", `attachment; filename="cert_7_bundle.json"`, `attachment; filename="cert_7_plaintext.json"`, `attachment; filename="ca_9_bundle.json"`},
		{"inline", "", "", ""},
		{"", "", "", ""},
	} {
		p := bundle.Packed{Pack: test.pack}
		if got := bundle.AnswerMaterial(p, 7, bundle.Material{}, false).Disposition; got != test.sealed {
			t.Errorf("pack=%s, sealed: %q", test.pack, got)
		}
		if got := bundle.AnswerMaterial(p, 7, bundle.Material{}, true).Disposition; got != test.plain {
			t.Errorf("pack=%s, plain: %q", test.pack, got)
		}
		if got := bundle.AnswerCA(p, ca.CA{ID: 9}, time.Now()).Disposition; got != test.ca {
			t.Errorf("pack=%s, CA: %q", test.pack, got)
		}
	}
}
