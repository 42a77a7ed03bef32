package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"strings"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/store"
)

// revoke revokes a certificate (RFC 8555 §7.6): for the account that it was issued to, for one that may be issued all of
// its names, or for whoever has its key.
func (h *handler) revoke(q *request) (answer, error) {
	var asked struct {
		Certificate string `json:"certificate"`
		Reason      *int   `json:"reason"`
	}
	if err := q.decode(&asked); err != nil {
		return answer{}, err
	}
	der, ok := decodeBase64(asked.Certificate)
	if !ok {
		return answer{}, refuse(malformed, "The certificate is not DER in base64url without padding.")
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return answer{}, refuse(malformed, "The certificate cannot be read.")
	}
	reason := 0
	if asked.Reason != nil {
		reason = *asked.Reason
	}
	if !ca.KnownReason(reason) {
		return answer{}, refuse(badRevocationReason, "The reason is one of 0 to 5, 9 and 10 (RFC 5280 §5.3.1), not %d.", reason)
	}
	_, e, err := h.find(q.Context(), q.ca, certificate.AuthorityKeyId, certificate.SerialNumber)
	if errors.Is(err, errNotOurs) || err == nil && !bytes.Equal(e.TBS, certificate.RawTBSCertificate) {
		return answer{}, refuse(malformed, "This CA issued no such certificate.")
	}
	if err != nil {
		return answer{}, err
	}
	by := "acme/key"
	if q.account.ID == "" {
		if !pki.Same(certificate.PublicKey, q.key) {
			return answer{}, refuse(unauthorized, "The key that signed this is not the certificate's.")
		}
	} else {
		by = q.account.Principal()
		if e.By != by {
			if err := h.mayRevoke(q, e); err != nil {
				return answer{}, err
			}
		}
	}
	switch err := h.signer.Revoke(q.Context(), q.ca.User, e, reason, by); {
	case errors.Is(err, store.ErrConflict):
		return answer{}, refuse(alreadyRevoked, "The certificate was revoked before.")
	case err != nil:
		return answer{}, err
	}
	return answer{}, nil
}

// mayRevoke lets an account revoke what another was issued by ACME, if its binding lets it have all of the names
// without a challenge: it holds authorizations for them (RFC 8555 §7.6).
func (h *handler) mayRevoke(q *request, e ca.Entry) error {
	no := refuse(unauthorized, "The certificate was issued to another account.")
	if !strings.HasPrefix(e.By, acmePrincipal) {
		return no
	}
	b, err := h.binding(q, q.account.Binding)
	if err != nil {
		return err
	}
	for _, name := range e.Names {
		if !b.Covers(name) {
			return no
		}
	}
	return nil
}

// acmePrincipal begins the principals of acmeserver.Account.
const acmePrincipal = "acme/"
