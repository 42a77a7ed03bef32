package ca

import (
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"cjj365.cc/bb/shared/pki"
)

// Severity is how much a finding matters.
type Severity string

// The severities.
const (
	Critical Severity = "critical" // relying parties fail, now or within days
	Warning  Severity = "warning"  // they will, or an auditor would object
	Note     Severity = "info"
)

// Finding is something about a CA that somebody should know.
type Finding struct {
	Severity Severity `json:"severity" enum:"critical,warning,info"`
	Code     string   `json:"code" doc:"Stable, for scripts."`
	What     string   `json:"what" doc:"What it is, and what to do."`
}

// Published is what is known of what a CA has published.
type Published struct {
	CRL          *x509.RevocationList // nil if there is none
	CRLFailure   string
	OCSPNotAfter time.Time // end of the OCSP signer's certificate; zero if there is none
}

// Check finds what is wrong with a CA.
func (c CA) Check(p Published, now time.Time) []Finding {
	var found []Finding
	add := func(s Severity, code, format string, args ...any) {
		found = append(found, Finding{s, code, fmt.Sprintf(format, args...)})
	}
	c = c.Parsed()
	if c.Status(now) == Pending {
		add(Warning, "pending", "The CA has no certificate yet. Have its request (GET csr) signed, and POST the certificate.")
		return found
	}
	chain := c.Certificates()
	own := chain[0]
	c.checkExpiry(own, now, add)
	for i, one := range chain[1:] {
		switch {
		case !now.Before(one.NotAfter):
			add(Critical, "chain_expired", "%q above the CA has expired. Have the CA signed by another, or rotate it.", one.Subject.CommonName)
		case one.NotAfter.Before(own.NotAfter):
			add(Warning, "outlives_parent", "The CA's certificate is valid longer than that of %q above it.", one.Subject.CommonName)
		}
		if chain[i].CheckSignatureFrom(one) != nil {
			add(Critical, "chain_broken", "Certificate %d of the chain is not signed by the next.", i+1)
		}
	}
	if !c.RevokedAt.IsZero() {
		what := "The CA's own certificate"
		if SerialText(own.SerialNumber) != c.RevokedSerial {
			what = "A certificate above the CA"
		}
		add(Critical, "revoked", "%s is revoked since %s. Rotate it.", what, c.RevokedAt.Format(time.DateOnly))
	}
	for i, one := range chain {
		checkParameters(i, one, now, add)
	}
	c.checkPublished(own, p, now, add)
	c.checkConstraints(chain, add)
	if own.MaxPathLen == -1 || own.MaxPathLen == 0 && !own.MaxPathLenZero {
		add(Note, "no_path_length", "The CA has no path length: below it there may be CAs without end.")
	}
	if c.Custody == Wrapped && c.Root() {
		add(Note, "root_online", "The root signs by itself, with a key that is opened here. Let an intermediate CA sign, and give roots the custody KMS.")
	}
	return found
}

type adder func(s Severity, code, format string, args ...any)

func (c CA) checkExpiry(own *x509.Certificate, now time.Time, add adder) {
	left, lifetime := own.NotAfter.Sub(now), own.NotAfter.Sub(own.NotBefore)
	days := int(left / day)
	switch {
	case left <= 0:
		add(Critical, "expired", "The CA's certificate has expired. Make another CA.")
	case c.Next != 0:
		add(Note, "rotated", "CA %d has taken this one's place. It signs CRLs until %s.", c.Next, own.NotAfter.Format(time.DateOnly))
	case left < 30*day:
		add(Critical, "expires", "The CA's certificate ends in %d days. Rotate the CA.", days)
	case left < lifetime/5:
		add(Warning, "expires_soon", "The CA's certificate ends in %d days, and certificates end with it. Rotate the CA.", days)
	}
}

func checkParameters(i int, one *x509.Certificate, now time.Time, add adder) {
	name := "The CA"
	if i > 0 {
		name = fmt.Sprintf("%q above it", one.Subject.CommonName)
	}
	switch one.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.MD5WithRSA, x509.DSAWithSHA1:
		if !selfSigned(one) {
			add(Critical, "weak_signature", "%s is certified by %s, which can be forged.", name, one.SignatureAlgorithm)
		}
	}
	if key, ok := one.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < 3072 && one.NotAfter.After(time.Date(2030, 12, 31, 0, 0, 0, 0, time.UTC)) {
		add(Warning, "weak_key", "%s has an RSA key of %d bits and goes on after 2030, for which NIST SP 800-57 wants 3072.", name, key.N.BitLen())
	}
	if _, err := pki.Strength(one.PublicKey); err != nil && i == 0 {
		add(Critical, "weak_key", "%s has a key that can be broken, or is not known here.", name)
	}
	if one.SerialNumber.BitLen() < 64 && i == 0 && !selfSigned(one) {
		add(Note, "short_serial", "%s has a serial number of %d bits, which can be guessed.", name, one.SerialNumber.BitLen())
	}
	if one.NotAfter.Sub(one.NotBefore) > 25*365*day {
		add(Note, "long_lived", "%s is certified for more than 25 years.", name)
	}
}

func (c CA) checkPublished(own *x509.Certificate, p Published, now time.Time, add adder) {
	if !now.Before(own.NotAfter) {
		return
	}
	switch crl := p.CRL; {
	case crl == nil:
		add(Critical, "crl_missing", "There is no CRL. It is published within a minute of the CA's creation; if not, see the log of the function crls.")
	case !now.Before(crl.NextUpdate):
		add(Critical, "crl_lapsed", "The CRL was to be replaced by %s. Relying parties refuse everything of this CA.", crl.NextUpdate.Format(time.RFC3339))
	case now.Sub(crl.ThisUpdate) > 2*CRLEvery:
		add(Warning, "crl_old", "The CRL is of %s, and there should be one each day.", crl.ThisUpdate.Format(time.RFC3339))
	case crl.CheckSignatureFrom(own) != nil:
		add(Critical, "crl_forged", "The CRL that is published is not by this CA.")
	}
	if p.CRLFailure != "" {
		add(Warning, "crl_failed", "The last CRL could not be published: %s", p.CRLFailure)
	}
	switch {
	case p.OCSPNotAfter.IsZero():
		add(Critical, "ocsp_missing", "The OCSP responder has no key. It is made within a minute of the CA's creation; if not, see the log of the function crls.")
	case !now.Before(p.OCSPNotAfter):
		add(Critical, "ocsp_expired", "The OCSP responder's certificate has expired. See the log of the function crls.")
	case p.OCSPNotAfter.Sub(now) < OCSPSignerFor/3:
		add(Warning, "ocsp_expires", "The OCSP responder's certificate ends at %s and was not renewed.", p.OCSPNotAfter.Format(time.RFC3339))
	}
}

func (c CA) checkConstraints(chain pki.Chain, add adder) {
	for i, one := range chain {
		k := pki.ConstraintsOf(one)
		if i == 0 {
			for _, conflict := range k.Conflicts() {
				add(Warning, "constraint_conflict", "Of the CA's name constraints: %s.", conflict)
			}
			if !k.Empty() && !one.PermittedDNSDomainsCritical {
				add(Warning, "constraints_not_critical", "The CA's name constraints are not critical (RFC 5280 §4.2.1.10): who does not know them ignores them.")
			}
		}
		for _, above := range chain[i+1:] {
			for _, wrong := range k.Within(pki.ConstraintsOf(above)) {
				add(Warning, "constraint_conflict", "Of the name constraints of %q: %s.", one.Subject.CommonName, wrong)
			}
		}
	}
	for _, p := range c.Profiles {
		for _, entry := range p.limits().PermittedDNS {
			if reason := c.Constrains(strings.TrimPrefix(entry, ".")); reason != "" {
				add(Warning, "profile_conflict", "The profile %s allows %s, which is refused: %s.", p.Name, entry, reason)
			}
		}
	}
}
