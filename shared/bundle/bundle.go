// Package bundle is what a device gets of what it is assigned, as every function that answers with it shows it
// (contract §13.1, §14): install configs, a certificate's sealed key, a CA.
package bundle

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/certificate"
	"cjj365.cc/bb/shared/certificate/record"
	"cjj365.cc/bb/shared/delivery"
	"cjj365.cc/bb/shared/device"
	"cjj365.cc/bb/shared/installconfig"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
)

// Config is an install config. Times are epoch seconds.
type Config struct {
	ID        int64  `json:"id" doc:"0 if nothing was ever said."`
	Device    int64  `json:"user_device_id"`
	Version   int64  `json:"version"`
	Items     Items  `json:"installs"`
	JSON      string `json:"installs_json" doc:"The same as a JSON string."`
	Hash      string `json:"installs_hash" doc:"Base64 of a SHA-256."`
	Script    string `json:"after_update_script,omitempty"`
	UpdatedBy string `json:"updated_by"`
	CreatedAt int64  `json:"created_at"`
	UpdatedAt int64  `json:"updated_at"`
}

// Items are those of an install config, in full form.
type Items []installconfig.Item

// MarshalJSON writes them in their one spelling, an empty array for none.
func (i Items) MarshalJSON() ([]byte, error) { return installconfig.JSON(i), nil }

// Schema describes an item.
func (Items) Schema(huma.Registry) *huma.Schema {
	text, number, truth := &huma.Schema{Type: huma.TypeString}, &huma.Schema{Type: huma.TypeInteger}, &huma.Schema{Type: huma.TypeBoolean}
	texts := &huma.Schema{Type: huma.TypeArray, Items: text}
	return &huma.Schema{Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeObject, Properties: map[string]*huma.Schema{
		"id": text, "type": {Type: huma.TypeString, Enum: []any{"copy", "exec", "import_ca"}}, "enabled": truth, "continue_on_error": truth,
		"depends_on": texts, "tags": texts, "ob_type": {Type: huma.TypeString, Enum: []any{"", "cert", "ca"}}, "ob_id": number, "ob_name": text,
		"from": texts, "to": texts, "cmd": {OneOf: []*huma.Schema{text, texts}}, "cmd_argv": texts, "timeout_ms": number, "run_as": text,
		"env": {Type: huma.TypeObject, AdditionalProperties: text}, "verify": {Type: huma.TypeObject, AdditionalProperties: true},
	}}}
}

// OfConfig is an install config as it is shown.
func OfConfig(c installconfig.Config) Config {
	shown := Config{
		ID: c.ID, Device: c.Device, Version: c.Version, Items: c.Items, JSON: string(installconfig.JSON(c.Items)), Script: c.Script, UpdatedBy: c.UpdatedBy,
		CreatedAt: record.Seconds(c.CreatedAt), UpdatedAt: record.Seconds(c.UpdatedAt),
	}
	if c.Version > 0 {
		shown.Hash = installconfig.Hash(c.Items)
	}
	return shown
}

// Material is what a device makes a certificate's key of: sealed to it, or plain, as the certificate's policy says. The
// layouts are those of contract §22.
type Material struct {
	Scheme      string `json:"enc_scheme" enum:"aes256gcm,plaintext"`
	WrapAlg     string `json:"wrap_alg,omitempty" doc:"x25519: a sealed box of libsodium's."`
	KeyPrint    string `json:"device_keyfp_b64,omitempty" doc:"BLAKE2b-256 of the device's public key."`
	DataKey     string `json:"enc_data_key_b64,omitempty" doc:"The data key, sealed to the device: 80 bytes."`
	PrivateKey  string `json:"enc_privkey_b64,omitempty" doc:"The private key (PKCS#8, DER), by AES-256-GCM under the data key."`
	Nonce       string `json:"privkey_nonce_b64,omitempty"`
	Tag         string `json:"privkey_tag_b64,omitempty"`
	Plain       string `json:"private_key_der_b64,omitempty" doc:"The private key (PKCS#8, DER) itself: of a certificate with MASTER_ONLY whose key may be exported."`
	Certificate string `json:"certificate_pem,omitempty"`
}

const tagSize = 16

var (
	errWrapPending = func() error {
		p := problem.WrapPending.New("The key is not sealed to this device yet. Try again; if that lasts, renew the certificate (WRAP_PENDING).")
		p.RetryAfter = 3 * time.Second
		return p
	}()
	errNotIssued = problem.NotIssued.New("The certificate has not been issued yet.")
	errOwnKey    = problem.NotFound.New("The key of this certificate is kept by whoever made its request.")
)

// Maker makes bundles.
type Maker struct {
	Store    *store.Store
	Keys     *kmskey.Key
	Delivery *delivery.Worker
	Log      *slog.Logger
}

// Assigned is a certificate on a device, with the chain and sealed key of the issue that the device is to have.
type Assigned struct {
	Device      device.Device
	Assignment  device.Assignment
	Certificate certificate.Certificate
	Material    store.Material
}

// Find reads what a device is to have of a certificate. problem.NotFound if it is not on the device, and
// problem.NotIssued if there is nothing to have yet.
func (m *Maker) Find(ctx context.Context, user, deviceID, id int64) (Assigned, error) {
	missing := problem.NotFound.New("Certificate %d is not assigned to this device.", id)
	for try := 0; ; try++ {
		var a Assigned
		var err error
		if a.Assignment, err = m.Store.Assignment(ctx, id, deviceID); errors.Is(err, store.ErrNotFound) || err == nil && a.Assignment.User != user {
			return a, missing
		} else if err != nil {
			return a, err
		}
		if a.Certificate, err = m.Store.Certificate(ctx, user, id); errors.Is(err, store.ErrNotFound) {
			return a, missing // deleted, and on its way off the device
		} else if err != nil {
			return a, err
		}
		if a.Assignment.Issue == 0 {
			return a, errNotIssued
		}
		a.Material, err = m.Store.Material(ctx, id, a.Assignment.Issue)
		if errors.Is(err, store.ErrNotFound) && try < 5 {
			continue // the device was told of another issue between the reads
		}
		if err != nil {
			return a, fmt.Errorf("the chain of certificate %d, issue %d: %w", id, a.Assignment.Issue, err)
		}
		if a.Device, err = m.Store.Device(ctx, user, deviceID); err != nil {
			return a, err
		}
		return a, nil
	}
}

// Material is a certificate's key for the device. plain tells that it is not sealed. Each time leaves an audit line.
func (m *Maker) Material(ctx context.Context, a Assigned, principal string) (made Material, plain bool, err error) {
	key, c := a.Material.Key, a.Certificate
	switch {
	case key.Empty():
		return made, false, errOwnKey
	case c.Policy == certificate.MasterOnly && !c.Export:
		return made, false, problem.ExportForbidden.New("The certificate's policy keeps its key from being given out. PUT server_decrypt_export or key_dist_policy to change that.")
	case c.Policy == certificate.MasterOnly:
		der, err := m.Keys.Open(ctx, kmskey.Certificate(c.User, c.ID), key)
		if err != nil {
			return made, true, err
		}
		defer clear(der)
		m.audit(ctx, a, principal, "plain")
		return Material{Scheme: "plaintext", Plain: base64.StdEncoding.EncodeToString(der), Certificate: string(a.Material.Chain)}, true, nil
	}
	wrapped, err := m.Delivery.Wrapped(ctx, a.Assignment, c, key, a.Device)
	if err != nil {
		return made, false, err
	}
	if !wrapped.Ready() {
		return made, false, errWrapPending
	}
	cut := len(key.Text) - tagSize
	m.audit(ctx, a, principal, "sealed")
	return Material{
		Scheme: "aes256gcm", WrapAlg: "x25519", KeyPrint: text(wrapped.WrapFor), DataKey: text(wrapped.Wrap),
		PrivateKey: text(key.Text[:cut]), Nonce: text(key.Nonce), Tag: text(key.Text[cut:]),
	}, false, nil
}

func text(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func (m *Maker) audit(ctx context.Context, a Assigned, principal, how string) {
	m.Log.LogAttrs(ctx, slog.LevelInfo, "certificate key given out", slog.Int64("user", a.Certificate.User), slog.Int64("device", a.Assignment.Device),
		slog.Int64("certificate", a.Certificate.ID), slog.Int64("issue", a.Assignment.Issue), slog.String("how", how), slog.String("principal", principal))
}

// Record is a certificate's record with the chain of the issue that the device is to have.
type Record struct {
	record.Certificate
	PEM   string `json:"certificate_pem" doc:"The leaf."`
	Chain string `json:"chain_pem" doc:"What stands above it; empty if nothing does."`
	Full  string `json:"fullchain_pem"`
}

// Record shows what a device is to have: of a staged roll-out that may be an earlier issue than the certificate's own.
func (a Assigned) Record(now time.Time) (Record, error) {
	chain, err := pki.ParseChain(a.Material.Chain)
	if err != nil {
		return Record{}, err
	}
	c, facts := a.Certificate, chain.Facts()
	c.Current.Serial, c.Current.Fingerprint, c.Current.NotBefore, c.Current.NotAfter = facts.Serial, facts.Fingerprint, facts.NotBefore, facts.NotAfter
	r := Record{Certificate: record.Of(c, now), Full: string(a.Material.Chain)}
	r.Cert = r.Full
	leaf, rest := pem.Decode(a.Material.Chain)
	r.PEM, r.Chain = string(pem.EncodeToMemory(leaf)), string(rest)
	return r, nil
}

// TrustedCA is a CA as a device installs it. Its time is epoch milliseconds.
type TrustedCA struct {
	ID        int64  `json:"id"`
	User      int64  `json:"user_id"`
	Name      string `json:"name"`
	Serial    string `json:"serial_number"`
	Status    string `json:"status"`
	Algorithm string `json:"algorithm"`
	KeySize   int    `json:"key_size"`
	ValidDays int    `json:"valid_days"`
	PEM       string `json:"ca_certificate_pem"`
	DER       string `json:"ca_certificate_der_b64"`
	CreatedAt int64  `json:"created_at"`
}

// OfCA is a CA as it is shown.
func OfCA(c ca.CA, now time.Time) TrustedCA {
	shown := TrustedCA{
		ID: c.ID, User: c.User, Name: c.Name, Status: string(c.Status(now)), ValidDays: c.Days,
		CreatedAt: c.CreatedAt.UnixMilli(),
	}
	if len(c.Chain) > 0 {
		own := c.Certificate()
		shown.Serial = c.Serial()
		shown.PEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Raw}))
		shown.DER = text(own.Raw)
		shown.Algorithm = strings.ToUpper(own.PublicKeyAlgorithm.String())
		switch key := own.PublicKey.(type) {
		case *ecdsa.PublicKey:
			shown.KeySize = key.Curve.Params().BitSize
		case *rsa.PublicKey:
			shown.KeySize = key.N.BitLen()
		case ed25519.PublicKey:
			shown.KeySize = 256
		}
	}
	return shown
}
