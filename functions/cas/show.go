package main

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/pki"
)

// CA is a CA as the API shows it (contract §10.1). Times are epoch milliseconds.
type CA struct {
	ID           int64        `json:"id"`
	User         int64        `json:"user_id"`
	Name         string       `json:"name"`
	Status       string       `json:"status" enum:"PENDING,ACTIVE,ROTATED,REVOKED,EXPIRED" doc:"REVOKED: its certificate is, or one above it that a CA here signed."`
	Algorithm    string       `json:"algorithm" enum:"ECDSA,RSA,ED25519"`
	KeySize      int          `json:"key_size" doc:"Bits."`
	Curve        *string      `json:"curve_name" nullable:"true"`
	KeyType      string       `json:"key_type"`
	Custody      string       `json:"key_custody" enum:"WRAPPED,KMS"`
	EncScheme    int          `json:"enc_scheme" doc:"1: the key is kept under AES-256-GCM; 0: it never leaves KMS."`
	CommonName   string       `json:"common_name"`
	Organization string       `json:"organization"`
	Unit         string       `json:"organizational_unit"`
	Country      string       `json:"country"`
	State        string       `json:"state"`
	Locality     string       `json:"locality"`
	ValidDays    int          `json:"valid_days"`
	NotBefore    int64        `json:"not_before" doc:"0 until it has a certificate."`
	NotAfter     int64        `json:"not_after"`
	Serial       string       `json:"serial_number"`
	Fingerprint  string       `json:"fingerprint_sha256"`
	PathLen      *int         `json:"max_path_length" nullable:"true" doc:"null for no limit."`
	KeyUsage     string       `json:"key_usage"`
	Constraints  *Constraints `json:"name_constraints,omitempty"`
	Certificate  string       `json:"ca_certificate_pem"`
	Chain        string       `json:"chain_pem" doc:"The certificate and those above it, up to the root."`
	Link         string       `json:"link_certificate_pem" doc:"A certificate for the same key by the root that this one took the place of; empty for none. Certificates come with it while it is valid, so that those who trust the former root can follow."`
	Parent       int64        `json:"parent_id" doc:"The CA of yours that signed it; 0 for none."`
	Former       int64        `json:"predecessor_id" doc:"0 for none."`
	Next         int64        `json:"successor_id" doc:"0 for none."`
	Imported     bool         `json:"imported"`
	Profiles     []ca.Profile `json:"profiles" doc:"Your own. Each CA also has server, client, both, smime and code_signing."`
	Default      string       `json:"default_profile"`
	CRL          string       `json:"crl_url"`
	OCSP         string       `json:"ocsp_url"`
	Issuer       string       `json:"ca_certificate_url"`
	Directory    string       `json:"acme_directory_url"`
	Issued       int64        `json:"issued_cert_count" doc:"Certificates that it has signed, its own included."`
	LastUsed     *int64       `json:"last_used_at" nullable:"true"`
	Uses         int64        `json:"uses" doc:"Accounts, certificates and CAs that rest on it, one that it took the place of among them."`
	CreatedAt    int64        `json:"created_at"`
	UpdatedAt    int64        `json:"updated_at"`
}

func show(c ca.CA, count ca.Count, now time.Time) CA {
	c = c.Parsed()
	shown := CA{
		ID: c.ID, User: c.User, Name: c.Name, Status: string(c.Status(now)), KeyType: string(c.KeyType), Custody: string(c.Custody),
		CommonName: c.CommonName, Organization: c.Subject.Organization, Unit: c.Subject.Unit, Country: c.Subject.Country, State: c.Subject.State, Locality: c.Subject.Locality,
		ValidDays: c.Days, KeyUsage: "keyCertSign,cRLSign", Parent: c.Parent, Former: c.Former, Next: c.Next, Imported: c.Imported,
		Profiles: c.Profiles, Default: c.Default, CRL: c.CRLURL(), OCSP: c.OCSPURL(), Issuer: c.CertificateURL(), Directory: c.Directory + "/directory",
		Uses: c.Uses, CreatedAt: c.CreatedAt.UnixMilli(), UpdatedAt: c.UpdatedAt.UnixMilli(),
	}
	if shown.Default == "" {
		shown.Default = "server"
	}
	if shown.Profiles == nil {
		shown.Profiles = []ca.Profile{}
	}
	if c.Custody == ca.Wrapped {
		shown.EncScheme = 1
	}
	shown.Algorithm, shown.KeySize, shown.Curve = algorithm(c.KeyType)
	if length := c.PathLength(); length != ca.NoPathLen {
		shown.PathLen = &length
	}
	if own := c.Certificate(); own != nil {
		fingerprint := sha256.Sum256(own.Raw)
		shown.NotBefore, shown.NotAfter, shown.Serial = own.NotBefore.UnixMilli(), own.NotAfter.UnixMilli(), ca.SerialText(own.SerialNumber)
		shown.Fingerprint = hex.EncodeToString(fingerprint[:])
		shown.Certificate, shown.Chain = ca.PEM(c.Chain[0]), ca.PEM(c.Chain...)
		shown.Constraints = showConstraints(pki.ConstraintsOf(own))
	}
	if link := c.Link(); link != nil {
		shown.Link = ca.PEM(link)
	}
	shown.count(count)
	return shown
}

func (shown *CA) count(count ca.Count) {
	shown.Issued = count.Issued
	if !count.LastUsed.IsZero() {
		at := count.LastUsed.UnixMilli()
		shown.LastUsed = &at
	}
}

// curves are the names of curves in the contract and here.
var curves = map[string]pki.KeyType{
	"prime256v1": pki.ECDSAP256, "secp256r1": pki.ECDSAP256, "p-256": pki.ECDSAP256, "p256": pki.ECDSAP256,
	"secp384r1": pki.ECDSAP384, "p-384": pki.ECDSAP384, "p384": pki.ECDSAP384,
}

func algorithm(t pki.KeyType) (name string, bits int, curve *string) {
	p256, p384 := "prime256v1", "secp384r1"
	switch t {
	case pki.ECDSAP256:
		return "ECDSA", 256, &p256
	case pki.ECDSAP384:
		return "ECDSA", 384, &p384
	case pki.RSA2048:
		return "RSA", 2048, nil
	case pki.RSA3072:
		return "RSA", 3072, nil
	case pki.RSA4096:
		return "RSA", 4096, nil
	}
	return "ED25519", 256, nil
}

// Constraints are name constraints (RFC 5280 §4.2.1.10).
type Constraints struct {
	_         struct{} `additionalProperties:"false"` // one that is misspelt would permit everything
	Permitted Names    `json:"permitted,omitempty" doc:"Where nothing of a kind is permitted, all of it is."`
	Excluded  Names    `json:"excluded,omitempty"`
}

// Names are names by kind.
type Names struct {
	_     struct{} `additionalProperties:"false"`
	DNS   []string `json:"dns,omitempty" maxItems:"100" doc:"A name and all below it."`
	IP    []string `json:"ip,omitempty" maxItems:"100" doc:"CIDR."`
	Email []string `json:"email,omitempty" maxItems:"100" doc:"An address, or a host."`
	URI   []string `json:"uri,omitempty" maxItems:"100" doc:"A host."`
}

func (k *Constraints) constraints() (pki.Constraints, error) {
	if k == nil {
		return pki.Constraints{}, nil
	}
	return pki.Constraints{
		PermittedDNS: slices.Clone(k.Permitted.DNS), PermittedIP: slices.Clone(k.Permitted.IP), PermittedEmail: slices.Clone(k.Permitted.Email), PermittedURI: slices.Clone(k.Permitted.URI),
		ExcludedDNS: slices.Clone(k.Excluded.DNS), ExcludedIP: slices.Clone(k.Excluded.IP), ExcludedEmail: slices.Clone(k.Excluded.Email), ExcludedURI: slices.Clone(k.Excluded.URI),
	}.Normalize()
}

func showConstraints(k pki.Constraints) *Constraints {
	if k.Empty() {
		return nil
	}
	return &Constraints{
		Permitted: Names{DNS: k.PermittedDNS, IP: k.PermittedIP, Email: k.PermittedEmail, URI: k.PermittedURI},
		Excluded:  Names{DNS: k.ExcludedDNS, IP: k.ExcludedIP, Email: k.ExcludedEmail, URI: k.ExcludedURI},
	}
}
