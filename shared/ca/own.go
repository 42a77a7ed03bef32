package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
)

// AnyPolicy is the policy of a CA that limits none (RFC 5280 §4.2.1.4).
var AnyPolicy = func() []x509.OID {
	oid, err := x509.OIDFromInts([]uint64{2, 5, 29, 32, 0})
	if err != nil {
		panic(err)
	}
	return []x509.OID{oid}
}()

// Own plans the CA's certificate: signed by parent, or by its own key if parent is nil. It never outlives the parent.
func (c CA) Own(parent *CA, now time.Time) (Plan, error) {
	public, err := c.PublicKey()
	if err != nil {
		return Plan{}, err
	}
	id, err := keyID(public)
	if err != nil {
		return Plan{}, err
	}
	begin, end := now.Add(-backdate), now.Add(time.Duration(c.Days)*day)
	plan := Plan{Profile: OfCA}
	template := &x509.Certificate{
		Subject: subject(c.Subject, c.CommonName), RawSubject: c.RawSubject, BasicConstraintsValid: true, IsCA: true, SubjectKeyId: id,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, ExtKeyUsage: c.Usages.Known, UnknownExtKeyUsage: c.Usages.Other,
	}
	pathLen := c.PathLen
	if parent != nil {
		switch parent.Status(now) {
		case Active:
		default:
			return plan, problem.Conflict.New("CA %d is %s, and signs no CA.", parent.ID, parent.Status(now))
		}
		above := parent.Certificate()
		if first := parent.Ends(); first.Before(end) {
			end = first
			plan.Warnings = append(plan.Warnings, "The CA ends with the one that signs it, before it was asked to.")
		}
		if above.NotBefore.After(begin) {
			begin = above.NotBefore
		}
		switch most := parent.room(); {
		case most == 0:
			return plan, problem.Conflict.New("CA %d has the path length 0: there can be no CA below it.", parent.ID)
		case most != NoPathLen && pathLen == NoPathLen:
			pathLen = most - 1
		case most != NoPathLen && pathLen >= most:
			return plan, problem.InvalidArgument.New("max_path_length: below CA %d it is %d at most.", parent.ID, most-1).With("field", "max_path_length")
		}
		template.CRLDistributionPoints, template.OCSPServer = []string{parent.CRLURL()}, []string{parent.OCSPURL()}
		template.IssuingCertificateURL = []string{parent.CertificateURL()}
		template.Policies = AnyPolicy // without it, none that its certificates assert would be valid
		var refused []Refused
		for _, wrong := range c.Constraints.Within(pki.ConstraintsOf(above)) {
			refused = append(refused, Refused{Field: "name_constraints", Why: wrong})
		}
		if len(refused) > 0 {
			return plan, Refuse(refused)
		}
	}
	if pathLen != NoPathLen {
		template.MaxPathLen, template.MaxPathLenZero = pathLen, pathLen == 0
	} else {
		template.MaxPathLen = -1
	}
	c.Constraints.Apply(template)
	template.NotBefore, template.NotAfter = begin.UTC().Truncate(time.Second), end.UTC().Truncate(time.Second)
	plan.Template = template
	return plan, nil
}

// OCSPSigner plans the certificate of the key that signs the CA's OCSP answers (RFC 6960 §4.2.2.2). Nobody asks
// whether it is revoked (§4.2.2.2.1), so it lives for days.
func (c CA) OCSPSigner(public crypto.PublicKey, now time.Time) (Plan, error) {
	id, err := keyID(public)
	if err != nil {
		return Plan{}, err
	}
	own := c.Certificate()
	begin, end := now.Add(-backdate), now.Add(OCSPSignerFor)
	if end.After(own.NotAfter) {
		end = own.NotAfter
	}
	if begin.Before(own.NotBefore) {
		begin = own.NotBefore
	}
	return Plan{Profile: OfOCSP, Template: &x509.Certificate{
		Subject: subject(pki.Subject{}, fmt.Sprintf("OCSP of CA %d", c.ID)), NotBefore: begin.UTC().Truncate(time.Second), NotAfter: end.UTC().Truncate(time.Second),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}, SubjectKeyId: id,
		IssuingCertificateURL: []string{c.CertificateURL()}, ExtraExtensions: noCheck,
	}}, nil
}

// OCSPSignerFor is how long an OCSP signer's certificate is valid. After a third there is another.
const OCSPSignerFor = 15 * day

// Ends is when the first certificate of the chain ends.
func (c CA) Ends() time.Time {
	chain := c.Certificates()
	first := chain[0].NotAfter
	for _, above := range chain {
		if above.NotAfter.Before(first) {
			first = above.NotAfter
		}
	}
	return first
}

// room is how many CAs may follow below, by each path length of the chain; NoPathLen for no limit.
func (c CA) room() int {
	least := NoPathLen
	for i, one := range c.Certificates() {
		if most := pathLenOf(one); most != NoPathLen && (least == NoPathLen || most-i < least) {
			least = most - i
		}
	}
	return least
}

func pathLenOf(c *x509.Certificate) int {
	if c.MaxPathLen == 0 && !c.MaxPathLenZero {
		return NoPathLen
	}
	return c.MaxPathLen
}

// PathLength is what the CA's certificate says, or what was asked for.
func (c CA) PathLength() int {
	if own := c.Certificate(); own != nil {
		return pathLenOf(own)
	}
	return c.PathLen
}

// CSR is the request by which another CA signs this one's certificate (PKCS#10, DER).
func (c CA) CSR(key crypto.Signer) ([]byte, error) {
	template := &x509.CertificateRequest{Subject: subject(c.Subject, c.CommonName)}
	if own := c.Certificate(); own != nil { // to the byte: its certificates name it
		template.RawSubject = own.RawSubject
	}
	var err error
	if template.ExtraExtensions, err = c.requested(key.Public()); err != nil {
		return nil, err
	}
	return x509.CreateCertificateRequest(rand.Reader, template, key)
}

// requested are the extensions that a CA's certificate has to have, for a signer that takes over what is requested.
func (c CA) requested(public crypto.PublicKey) ([]pkix.Extension, error) {
	id, err := keyID(public)
	if own := c.Certificate(); own != nil {
		id = own.SubjectKeyId
	}
	if err != nil {
		return nil, err
	}
	constraints := struct {
		IsCA       bool
		MaxPathLen int `asn1:"optional,default:-1"`
	}{true, c.PathLength()}
	extensions := []pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true}, {Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true}, {Id: asn1.ObjectIdentifier{2, 5, 29, 14}},
	}
	certSignAndCRLSign := asn1.BitString{Bytes: []byte{0x06}, BitLength: 7}
	for i, value := range []any{constraints, certSignAndCRLSign, id} {
		if extensions[i].Value, err = asn1.Marshal(value); err != nil {
			return nil, err
		}
	}
	return extensions, nil
}

// Accept checks a certificate for the CA that was signed outside, with those above it up to a root, and takes them
// for the CA's chain.
func (c *CA) Accept(chain pki.Chain, now time.Time) error {
	own := chain[0]
	public, err := x509.MarshalPKIXPublicKey(own.PublicKey)
	if err != nil || len(c.Public) > 0 && !bytes.Equal(public, c.Public) {
		return badChain("the first certificate is for another key than the CA's")
	}
	if existing := c.Certificate(); existing != nil && !bytes.Equal(existing.RawSubject, own.RawSubject) {
		return badChain("the first certificate has another subject than the CA's, whose certificates name that")
	}
	if existing := c.Certificate(); existing != nil && !bytes.Equal(existing.SubjectKeyId, own.SubjectKeyId) {
		return badChain("the first certificate has another subject key identifier than the CA's, whose certificates name that")
	}
	if bytes.Equal(own.RawSubject, []byte{0x30, 0}) {
		return badChain("the first certificate has no subject, which a CA must have (RFC 5280 §4.1.2.6)")
	}
	if _, err := pki.Strength(own.PublicKey); err != nil {
		return badChain("its key is too weak, or of a kind that is not known here")
	}
	for i, one := range chain {
		switch {
		case !one.BasicConstraintsValid || !one.IsCA:
			return badChain("certificate %d is no CA's", i+1)
		case one.KeyUsage != 0 && one.KeyUsage&x509.KeyUsageCertSign == 0:
			return badChain("certificate %d may not sign certificates", i+1)
		case i == 0 && one.KeyUsage&x509.KeyUsageCRLSign == 0: // without any key usage too: crypto/x509 signs no CRL by it
			return badChain("the CA may not sign CRLs")
		case !pki.UnderstoodConstraints(one):
			return badChain("certificate %d has name constraints of a kind that is not understood here: only those of DNS names, addresses, e-mail addresses and URIs are", i+1)
		case c.RevokedSerial != "" && SerialText(one.SerialNumber) == c.RevokedSerial:
			return badChain("certificate %d is revoked", i+1)
		case len(one.UnhandledCriticalExtensions) > 0:
			return badChain("certificate %d has a critical extension that is not understood here (%s)", i+1, one.UnhandledCriticalExtensions[0])
		case len(one.SubjectKeyId) == 0:
			return badChain("certificate %d has no subject key identifier", i+1)
		case now.Before(one.NotBefore.Add(-backdate)) || !now.Before(one.NotAfter):
			return badChain("certificate %d is not valid now", i+1)
		case i < len(chain)-1 && selfSigned(one):
			return badChain("certificate %d is signed by itself, and yet there are more", i+1)
		}
		for _, below := range chain[:i] {
			if bytes.Equal(below.Raw, one.Raw) {
				return badChain("certificate %d is there twice", i+1)
			}
		}
		if i == 0 {
			continue
		}
		if !bytes.Equal(chain[i-1].RawIssuer, one.RawSubject) || chain[i-1].CheckSignatureFrom(one) != nil {
			return badChain("certificate %d is not signed by the next", i)
		}
		if most := pathLenOf(one); most != NoPathLen && most < i { // i CAs are below it
			return badChain("the path length of certificate %d allows no chain as long", i+1)
		}
	}
	if !selfSigned(chain[len(chain)-1]) {
		return badChain("it does not end with a root, which is signed by itself")
	}
	c.Public, c.Chain, c.Cross, c.parsed, c.RevokedAt, c.RevokedSerial = public, nil, nil, nil, time.Time{}, ""
	for _, one := range chain {
		c.Chain = append(c.Chain, slices.Clone(one.Raw))
	}
	return nil
}

func badChain(format string, args ...any) error {
	return problem.InvalidArgument.New("certificate_pem: the chain cannot be used: "+format+".", args...).With("field", "certificate_pem")
}

// PEM is certificates as text.
func PEM(ders ...[]byte) string {
	var text []byte
	for _, der := range ders {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return string(text)
}
