package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"cjj365.cc/bb/shared/problem"
)

// Subject is what a request says of its owner besides names. Public CAs leave it out.
type Subject struct {
	Organization, Unit, Country, State, Locality string
}

var countryShape = regexp.MustCompile(`^[A-Za-z]{2}$`)

// Normalize checks a subject against the upper bounds of RFC 5280 (appendix A.1) and puts the country in
// capitals. Empty fields stay out of the request.
func (s Subject) Normalize() (Subject, error) {
	if s.Country != "" && !countryShape.MatchString(s.Country) {
		return Subject{}, problem.InvalidArgument.New("country must be two letters, such as DE.").With("field", "country")
	}
	s.Country = strings.ToUpper(s.Country)
	for _, field := range []struct {
		name, value string
		limit       int
	}{
		{"organization", s.Organization, 64},
		{"organizational_unit", s.Unit, 64},
		{"state", s.State, 128},
		{"locality", s.Locality, 128},
	} {
		if !utf8.ValidString(field.value) || utf8.RuneCountInString(field.value) > field.limit ||
			strings.ContainsFunc(field.value, func(c rune) bool { return !unicode.IsPrint(c) }) {
			return Subject{}, problem.InvalidArgument.New("%s must be at most %d printable characters.", field.name, field.limit).With("field", field.name)
		}
	}
	return s, nil
}

// Extensions and attributes that a request is asked about.
var (
	oidCommonName       = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidSubjectAltName   = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidExtendedKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidTLSFeature       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24} // RFC 7633
)

// maxCommonName is the upper bound of RFC 5280 (appendix A.1). The names are in the SANs in any case.
const maxCommonName = 64

// NewRequest makes a request for the names, which are as Names gives them. The first is the common name too
// if it fits; an address never is.
func NewRequest(key crypto.Signer, names []string, subject Subject) ([]byte, error) {
	if len(names) == 0 {
		return nil, errors.New("make a request: it has no names")
	}
	subject, err := subject.Normalize()
	if err != nil {
		return nil, err
	}
	template := x509.CertificateRequest{Subject: pkix.Name{
		Organization: field(subject.Organization), OrganizationalUnit: field(subject.Unit), Country: field(subject.Country),
		Province: field(subject.State), Locality: field(subject.Locality),
	}}
	for i, name := range names {
		address, err := netip.ParseAddr(name)
		switch {
		case err == nil:
			template.IPAddresses = append(template.IPAddresses, address.AsSlice())
			continue
		case i == 0 && len(name) <= maxCommonName:
			template.Subject.CommonName = name
		}
		template.DNSNames = append(template.DNSNames, name)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	return der, nil
}

func field(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

// Request is a request that was checked: whoever made it has the private key, and it asks for nothing but
// names.
type Request struct {
	DER     []byte
	Names   []string // the common name first, if there is one
	Public  crypto.PublicKey
	KeyType KeyType
	// Of the rules Any: the other names as they stand in the request, which nobody has checked, and the common name.
	Others     []string
	CommonName string
}

// maxRequest bounds a request, as text and as DER: a hundred of the longest names take half of it.
const maxRequest = 64 << 10

// ParseRequest reads a caller's request: PEM, or the DER in base64 or base64url.
func (r Rules) ParseRequest(text string) (Request, error) {
	if len(text) > maxRequest {
		return Request{}, badRequest("it is longer than %d bytes", maxRequest)
	}
	if isPEM([]byte(text)) {
		blocks, err := readPEM([]byte(text), 1, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")
		if err != nil {
			return Request{}, badRequest("it is not one PEM block CERTIFICATE REQUEST, or there is more in it")
		}
		return r.ParseRequestDER(blocks[0])
	}
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
		if der, err := encoding.Strict().DecodeString(strings.TrimSpace(text)); err == nil {
			return r.ParseRequestDER(der)
		}
	}
	return Request{}, badRequest("it is neither PEM nor base64")
}

// ParseRequestDER reads and checks a request.
func (r Rules) ParseRequestDER(der []byte) (Request, error) {
	if len(der) > maxRequest {
		return Request{}, badRequest("it is longer than %d bytes", maxRequest)
	}
	parsed, err := x509.ParseCertificateRequest(der)
	if err != nil {
		bad := badRequest("it is not PKCS#10 (RFC 2986)")
		bad.Cause = err
		return Request{}, bad
	}
	// The key comes first: a signature by one of half a million bits takes long to verify.
	kind, err := Strength(parsed.PublicKey)
	if err != nil {
		return Request{}, err
	}
	if !slices.Contains(signatures, parsed.SignatureAlgorithm) {
		return Request{}, badRequest("it must be signed with SHA-256, SHA-384, SHA-512 or Ed25519")
	}
	if err := parsed.CheckSignature(); err != nil {
		return Request{}, badRequest("its signature is not by its own key")
	}
	if err := checkExtensions(parsed); err != nil {
		return Request{}, err
	}
	names, err := r.requestedNames(parsed)
	if err != nil {
		return Request{}, err
	}
	request := Request{DER: slices.Clone(der), Names: names, Public: parsed.PublicKey, KeyType: kind}
	if r.Others {
		request.CommonName = parsed.Subject.CommonName
		request.Others = slices.Clone(parsed.EmailAddresses)
		for _, uri := range parsed.URIs {
			request.Others = append(request.Others, uri.String())
		}
	}
	return request, nil
}

var signatures = []x509.SignatureAlgorithm{
	x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519,
	x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
	x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
}

// checkExtensions refuses what would make a CA of a server. What is asked for besides is left to the CA;
// what is critical has to be understood.
func checkExtensions(request *x509.CertificateRequest) error {
	for _, e := range request.Extensions {
		switch {
		case e.Id.Equal(oidBasicConstraints):
			var constraints struct {
				CA      bool `asn1:"optional"`
				MaxPath int  `asn1:"optional,default:-1"`
			}
			if rest, err := asn1.Unmarshal(e.Value, &constraints); err != nil || len(rest) > 0 {
				return badRequest("its basic constraints cannot be read")
			}
			if constraints.CA {
				return badRequest("it asks for a CA certificate")
			}
		case e.Id.Equal(oidKeyUsage):
			var usage asn1.BitString
			if rest, err := asn1.Unmarshal(e.Value, &usage); err != nil || len(rest) > 0 {
				return badRequest("its key usage cannot be read")
			}
			const keyCertSign, cRLSign = 5, 6
			if usage.At(keyCertSign) == 1 || usage.At(cRLSign) == 1 {
				return badRequest("it asks for the key usage of a CA")
			}
		case e.Id.Equal(oidSubjectAltName), e.Id.Equal(oidExtendedKeyUsage), e.Id.Equal(oidTLSFeature):
		case e.Critical:
			return badRequest("it has a critical extension that is not known here (%.100s)", e.Id)
		}
	}
	return nil
}

// requestedNames are the names of a request, which has them as DNS does: the CA reads them from it.
func (r Rules) requestedNames(request *x509.CertificateRequest) ([]string, error) {
	if err := r.checkSANs(request); err != nil {
		return nil, err
	}
	var domain string
	for _, attribute := range request.Subject.Names {
		if attribute.Type.Equal(oidCommonName) {
			if domain != "" {
				return nil, badRequest("its subject has more than one common name")
			}
			domain, _ = attribute.Value.(string)
		}
	}
	sans := slices.Clone(request.DNSNames)
	for _, ip := range request.IPAddresses {
		sans = append(sans, ip.String())
	}
	if r.Others {
		// The common name is one of its own, unless a request has no other and it can only be a host.
		if len(sans)+len(request.EmailAddresses)+len(request.URIs) > 0 || !strings.Contains(domain, ".") || strings.ContainsAny(domain, " @:/") {
			domain = ""
		}
		if len(sans) == 0 && domain == "" {
			return nil, nil
		}
	}
	names, err := r.Names(domain, sans)
	if err != nil {
		return nil, err
	}
	for _, san := range append(sans, domain) {
		if san != "" && !slices.Contains(names, strings.ToLower(san)) {
			return nil, badName(san, "in a request it must stand as in DNS, without a trailing dot and with A-labels")
		}
	}
	return names, nil
}

// Tags of a GeneralName (RFC 5280 §4.2.1.6). crypto/x509 passes over the kinds that it does not know.
const tagEmail, tagDNS, tagURI, tagIP = 1, 2, 6, 7

func (r Rules) checkSANs(request *x509.CertificateRequest) error {
	for _, e := range request.Extensions {
		if !e.Id.Equal(oidSubjectAltName) {
			continue
		}
		var list asn1.RawValue
		if _, err := asn1.Unmarshal(e.Value, &list); err != nil {
			return badRequest("its names cannot be read")
		}
		for rest := list.Bytes; len(rest) > 0; {
			var name asn1.RawValue
			var err error
			if rest, err = asn1.Unmarshal(rest, &name); err != nil {
				return badRequest("its names cannot be read")
			}
			known := name.Tag == tagDNS || name.Tag == tagIP && r.Addresses || (name.Tag == tagEmail || name.Tag == tagURI) && r.Others
			if !known {
				return badRequest("it asks for names that are no DNS names, such as an IP address, e-mail address or URI")
			}
		}
	}
	return nil
}

func badRequest(format string, args ...any) *problem.Error {
	return problem.InvalidArgument.New("The certificate request (CSR) cannot be used: %s.", fmt.Sprintf(format, args...)).With("field", "csr")
}

// Same tells whether two public keys are the same.
func Same(a, b crypto.PublicKey) bool {
	comparable, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && comparable.Equal(b)
}
