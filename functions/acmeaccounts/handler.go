package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/acme"
	"cjj365.cc/bb/shared/acmeaccount"
	"cjj365.cc/bb/shared/acmekey"
	"cjj365.cc/bb/shared/idempotency"
	"cjj365.cc/bb/shared/kmskey"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/user"
	"cjj365.cc/bb/shared/wire"
)

type handler struct {
	store     *store.Store
	keys      *kmskey.Key
	providers acmeaccount.Providers
	ca        *acme.Clients
	log       *slog.Logger
	now       func() time.Time
}

func (h *handler) routes() *wire.API {
	const accounts, account = "/apiv1/users/{user_id}/acme-accounts", "/apiv1/users/{user_id}/acme-accounts/{account_id}"
	rule := func(a access.Action, object string) wire.Rule {
		return wire.Rule{Type: "acme_accounts", Action: a, Object: object}
	}
	a := wire.New()
	wire.Register(a, wire.Operation{
		Method: "GET", Path: accounts, ID: "list-acme-accounts", Rule: rule(access.Read, ""),
		Summary: "List accounts at CAs", Description: "Newest first.",
	}, h.list)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: accounts, ID: "create-acme-account", Rule: rule(access.Write, ""), Status: 201,
		Summary: "Create an account at a CA", Description: "Its key is made here and never leaves. The CA hears of it on first use, or by /register.",
	}, h.create)
	wire.Register(a, wire.Operation{
		Method: "GET", Path: account, ID: "get-acme-account", Rule: rule(access.Read, "account_id"),
		Summary: "Get an account at a CA",
	}, h.get)
	wire.Register(a, wire.Operation{
		Method: "PUT", Path: account, ID: "update-acme-account", Rule: rule(access.Write, "account_id"),
		Summary: "Change an account at a CA", Description: "What is absent stays. The CA itself cannot be changed: make another account.",
	}, h.update)
	wire.Register(a, wire.Operation{
		Method: "DELETE", Path: account, ID: "delete-acme-account", Rule: rule(access.Write, "account_id"), Status: 204,
		Summary: "Delete an account at a CA", Description: "Refused while certificates use it.",
	}, h.delete)
	wire.Register(a, wire.Operation{
		Method: "POST", Path: account + "/register", ID: "register-acme-account", Rule: rule(access.Write, "account_id"),
		Summary: "Register an account at its CA now", Description: "Does nothing if it is registered. A failure can be tried again.",
	}, h.register)
	return a
}

// Path is the path parameters of one account.
type Path struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	ID   int64 `path:"account_id" minimum:"1" maximum:"9007199254740991"`
}

// Account is an account as the API shows it.
type Account struct {
	ID           int64   `json:"id"`
	User         int64   `json:"user_id"`
	Name         string  `json:"name"`
	Email        string  `json:"email"`
	Provider     string  `json:"provider"`
	Directory    string  `json:"directory_url"`
	URL          *string `json:"kid" nullable:"true" doc:"The account's URL at the CA; null until it is registered."`
	CA           int64   `json:"ca_id" doc:"0 for a public CA."`
	Binding      string  `json:"eab_kid" doc:"Key id of the external account binding; empty for none."`
	KeyType      string  `json:"key_type" doc:"Of certificates that name none."`
	ValidSeconds int64   `json:"cert_valid_seconds" doc:"Lifetime of certificates of a private CA; 0 for its profile's."`
	Registration string  `json:"registration" enum:"none,registered,failed"`
	Failure      string  `json:"registration_error" doc:"Why the last registration failed; empty if it did not."`
	Certificates int64   `json:"certificate_count"`
	CreatedAt    int64   `json:"created_at" doc:"Epoch milliseconds."`
	UpdatedAt    int64   `json:"updated_at" doc:"Epoch milliseconds."`
}

func show(a acmeaccount.Account) Account {
	shown := Account{
		ID: a.ID, User: a.User, Name: a.Name, Email: a.Email, Provider: a.Provider, Directory: a.Directory, CA: a.CA, Binding: a.EABKey, KeyType: a.KeyType,
		Registration: "none", Failure: a.Failure, ValidSeconds: int64(a.Validity / time.Second), Certificates: a.Certificates, CreatedAt: a.CreatedAt.UnixMilli(), UpdatedAt: a.UpdatedAt.UnixMilli(),
	}
	if a.Failure != "" {
		shown.Registration = "failed"
	}
	if a.URL != "" {
		shown.URL, shown.Registration = &a.URL, "registered"
	}
	if a.CA != 0 { // there is nothing to register at
		shown.Registration = "registered"
	}
	return shown
}

type listRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	wire.Paging
}

type listResponse struct{ Body wire.List[Account] }

func (h *handler) list(ctx context.Context, in *listRequest) (*listResponse, error) {
	accounts, err := h.store.ACMEAccounts(ctx, in.User)
	if err != nil {
		return nil, err
	}
	return &listResponse{wire.Page(accounts, in.Paging, show)}, nil
}

type response struct{ Body wire.Data[Account] }

func answer(a acmeaccount.Account) *response { return &response{wire.Data[Account]{Data: show(a)}} }

func (h *handler) get(ctx context.Context, in *Path) (*response, error) {
	a, err := h.store.ACMEAccount(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	return answer(a), nil
}

// AccountSettings are what of an account can be changed.
type AccountSettings struct {
	Name         *string `json:"name,omitempty" minLength:"1" maxLength:"128"`
	Email        *string `json:"email,omitempty" maxLength:"254" doc:"Contact that the CA is told; may be empty."`
	Provider     string  `json:"provider,omitempty" maxLength:"64" doc:"letsencrypt, letsencrypt-staging, zerossl, google, one that the operator has added, or SELF_CA with ca_id."`
	KeyType      string  `json:"key_type,omitempty" maxLength:"32" doc:"Of certificates that name none: ecdsa-p256 (the default), ecdsa-p384, rsa-2048, rsa-3072, rsa-4096, ed25519."`
	Algorithm    string  `json:"leaf_key_algorithm,omitempty" maxLength:"16" doc:"RSA or ECDSA: the same, in two fields."`
	RSABits      int     `json:"leaf_rsa_bits,omitempty" minimum:"0" maximum:"4096"`
	Curve        *string `json:"leaf_ec_curve,omitempty" nullable:"true" maxLength:"16" doc:"prime256v1 or secp384r1."`
	ValidSeconds int64   `json:"cert_valid_seconds,omitempty" minimum:"0" maximum:"3153600000" doc:"Lifetime of certificates of a private CA; its profile's, if absent."`
}

type newAccount struct {
	AccountSettings
	Directory  string  `json:"directory_url,omitempty" maxLength:"512" doc:"In place of provider: a directory that the operator allows."`
	CA         wire.ID `json:"ca_id,omitempty" nullable:"true" doc:"A private CA of yours; 0 or absent for a public one."`
	BindingKey string  `json:"eab_kid,omitempty" maxLength:"256" doc:"Key id of the external account binding, from the CA (RFC 8555 §7.3.4)."`
	BindingMAC string  `json:"eab_hmac_key,omitempty" maxLength:"512" doc:"Its HMAC key, base64url. Kept encrypted, never shown."`
}

type createRequest struct {
	User int64 `path:"user_id" minimum:"1" maximum:"9007199254740991"`
	idempotency.Header
	Body newAccount
}

func (h *handler) create(ctx context.Context, in *createRequest) (*idempotency.Answer[Account], error) {
	now := h.now()
	a := acmeaccount.Account{User: in.User, CreatedAt: now, UpdatedAt: now}
	if in.Body.Name == nil {
		return nil, problem.MissingField.New("name: give the account a name.").With("field", "name")
	}
	if err := in.Body.apply(&a); err != nil {
		return nil, err
	}
	provider, err := h.provider(in.Body)
	if err != nil {
		return nil, err
	}
	a.Provider, a.Directory, a.CA = provider.Name, provider.Directory, int64(in.Body.CA)
	if strings.EqualFold(a.Provider, acmeaccount.SelfCA) {
		a.Provider = acmeaccount.SelfCA
	}
	// Whoever orders at the account has the CA issue.
	if need := (access.Need{Type: "cas", Action: access.Write, ID: a.CA}); a.CA != 0 {
		if caller, _ := access.FromContext(ctx); !caller.Allow(need) {
			return nil, problem.Lacking(access.Need{Type: "cas", Action: access.Write}.String())
		}
	}
	mac, err := binding(in.Body, provider)
	if err != nil {
		return nil, err
	}
	return idempotency.Do(ctx, h.store, &in.Header, "create-acme-account", in.Body, now,
		func(seal func(Account) (*store.Idempotency, error)) (Account, error) {
			var err error
			if a.ID, err = h.store.NextACMEAccountID(ctx); err != nil {
				return Account{}, err
			}
			if err := h.keep(ctx, &a, in.Body.BindingKey, mac); err != nil {
				return Account{}, err
			}
			once, err := seal(show(a))
			if err != nil {
				return Account{}, err
			}
			if err := h.store.CreateACMEAccount(ctx, a, once); err != nil {
				return Account{}, err
			}
			h.audit(ctx, "created", a)
			return show(a), nil
		})
}

// keep makes the account's key and seals it and the key of the binding.
func (h *handler) keep(ctx context.Context, a *acmeaccount.Account, bindingKey string, mac []byte) error {
	if a.CA != 0 { // nobody asks for it
		return nil
	}
	key, err := acme.NewKey()
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	defer clear(der)
	if a.Key, err = h.keys.Seal(ctx, kmskey.ACMEAccount(a.User, a.ID), der); err != nil {
		return err
	}
	if bindingKey != "" {
		a.EABKey = bindingKey
		a.EABMAC, err = h.keys.Seal(ctx, kmskey.ACMEAccount(a.User, a.ID), mac)
	}
	return err
}

func (h *handler) provider(b newAccount) (acmeaccount.Provider, error) {
	if b.CA > 0 { // whatever the provider: clients say letsencrypt and mean the CA (contract §8)
		if _, known := h.providers.Find(b.Provider); b.Provider != "" && !known && !strings.EqualFold(b.Provider, acmeaccount.SelfCA) {
			return acmeaccount.Provider{}, problem.InvalidArgument.New("provider: an account of a private CA has SELF_CA.").With("field", "provider")
		}
		return acmeaccount.Provider{Name: cmp.Or(strings.ToLower(b.Provider), acmeaccount.SelfCA)}, nil
	}
	if b.Directory != "" {
		p, ok := h.providers.At(b.Directory)
		if named, known := h.providers.Find(b.Provider); ok && b.Provider != "" && (!known || named.Directory != p.Directory) {
			return acmeaccount.Provider{}, problem.InvalidArgument.New("directory_url: it is not provider's. Give one of the two.").With("field", "directory_url")
		}
		if ok {
			return p, nil
		}
		return acmeaccount.Provider{}, problem.InvalidArgument.New("directory_url: the operator of this server has not allowed it. Providers are %s.", strings.Join(h.providers.Names(), ", ")).With("field", "directory_url")
	}
	if b.Provider == "" {
		return acmeaccount.Provider{}, problem.MissingField.New("provider: name one of %s.", strings.Join(h.providers.Names(), ", ")).With("field", "provider")
	}
	if strings.EqualFold(b.Provider, acmeaccount.SelfCA) {
		return acmeaccount.Provider{}, problem.MissingField.New("ca_id: an account of a private CA names it.").With("field", "ca_id")
	}
	p, ok := h.providers.Find(b.Provider)
	if !ok {
		return p, problem.InvalidArgument.New("provider: there is no such one. Providers are %s.", strings.Join(h.providers.Names(), ", ")).With("field", "provider")
	}
	return p, nil
}

// binding checks the external account binding against what the provider needs.
func binding(b newAccount, p acmeaccount.Provider) ([]byte, error) {
	if b.CA > 0 && b.BindingKey+b.BindingMAC != "" {
		return nil, problem.InvalidArgument.New("eab_kid: an account of a private CA of yours is bound by being yours.").With("field", "eab_kid")
	}
	if b.BindingKey == "" && b.BindingMAC == "" {
		if p.Binding {
			return nil, problem.MissingField.New("eab_kid, eab_hmac_key: %s binds accounts to one of its own; its site shows both.", p.Title).With("field", "eab_kid")
		}
		return nil, nil
	}
	if b.BindingKey == "" || b.BindingMAC == "" {
		return nil, problem.MissingField.New("eab_kid and eab_hmac_key go together.").With("field", "eab_kid")
	}
	mac, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(b.BindingMAC), "="))
	if err != nil || len(mac) < 16 {
		return nil, problem.InvalidArgument.New("eab_hmac_key: it is base64url of at least 16 bytes, as the CA's site shows it.").With("field", "eab_hmac_key")
	}
	return mac, nil
}

// apply takes over what a request gives.
func (s AccountSettings) apply(a *acmeaccount.Account) error {
	if s.Name != nil {
		if err := wire.CheckName(*s.Name); err != nil {
			return err
		}
		a.Name = *s.Name
	}
	if s.Email != nil {
		a.Email = ""
		if *s.Email != "" {
			email, err := user.NormalizeEmail(*s.Email)
			if err != nil {
				return err
			}
			if strings.ContainsAny(email, "?%,&#") { // they mean something in a mailto URL (RFC 8555 §7.3)
				return problem.InvalidArgument.New("email: CAs take no address with one of ?%%,&#.").With("field", "email")
			}
			a.Email = email
		}
	}
	if given := s.keyType(); given != "" {
		t, err := pki.ParseKeyType(given)
		if err != nil {
			return err
		}
		a.KeyType = t.String()
	}
	if s.ValidSeconds > 0 {
		a.Validity = time.Duration(s.ValidSeconds) * time.Second
	}
	return nil
}

// keyType is key_type, or what the contract's older fields say.
func (s AccountSettings) keyType() string {
	switch algorithm := strings.ToLower(s.Algorithm); {
	case s.KeyType != "":
		return s.KeyType
	case algorithm == "rsa" && s.RSABits != 0:
		return "rsa-" + strconv.Itoa(s.RSABits)
	case algorithm == "ecdsa" && s.Curve != nil:
		switch strings.ToLower(*s.Curve) {
		case "secp384r1", "p-384", "p384":
			return "ecdsa-p384"
		case "", "prime256v1", "secp256r1", "p-256", "p256":
			return "ecdsa-p256"
		}
		return "ecdsa-" + *s.Curve
	default:
		return algorithm
	}
}

type updateRequest struct {
	Path
	Body AccountSettings
}

func (h *handler) update(ctx context.Context, in *updateRequest) (*response, error) {
	a, err := h.store.ACMEAccount(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	if in.Body.Provider != "" {
		p, ok := h.providers.Find(in.Body.Provider)
		if same := strings.EqualFold(in.Body.Provider, a.Provider) || a.CA != 0 && strings.EqualFold(in.Body.Provider, acmeaccount.SelfCA); !same && (!ok || p.Directory != a.Directory) {
			return nil, problem.InvalidArgument.New("provider: an account stays at its CA. Make another account.").With("field", "provider")
		}
	}
	before := a.Email
	if err := in.Body.apply(&a); err != nil {
		return nil, err
	}
	// The CA first: after a crash in between the same change can be made again.
	if a.URL != "" && a.Email != before {
		if err := h.tellContact(ctx, a); err != nil {
			return nil, err
		}
	}
	a.UpdatedAt = h.now()
	if err := h.store.ChangeACMEAccount(ctx, a); err != nil {
		return nil, missing(err, in.ID)
	}
	h.audit(ctx, "changed", a)
	return answer(a), nil
}

// tellContact tells the CA of a registered account its new contact.
func (h *handler) tellContact(ctx context.Context, a acmeaccount.Account) error {
	by, err := acmekey.Open(ctx, h.keys, a)
	if err != nil {
		return err
	}
	if err := h.ca.At(a.Directory).SetContact(ctx, by, a.Email); err != nil {
		return ofTheCA("The account is not changed", err)
	}
	return nil
}

// ofTheCA is the answer to a failure of the CA's, in its words; ours stays internal.
func ofTheCA(what string, err error) error {
	if !acmekey.OfTheCA(err) {
		return err
	}
	failed := problem.Conflict.New("%s: %s. Try again.", what, strings.TrimRight(err.Error(), ". "))
	failed.Cause = err
	return failed
}

func (h *handler) delete(ctx context.Context, in *Path) (*struct{}, error) {
	err := h.store.DeleteACMEAccount(ctx, in.User, in.ID)
	if errors.Is(err, store.ErrConflict) {
		return nil, problem.Conflict.New("Certificates use this account. Delete them first.")
	}
	if err != nil {
		return nil, missing(err, in.ID)
	}
	h.audit(ctx, "deleted", acmeaccount.Account{User: in.User, ID: in.ID})
	return nil, nil
}

func (h *handler) register(ctx context.Context, in *Path) (*response, error) {
	a, err := h.store.ACMEAccount(ctx, in.User, in.ID)
	if err != nil {
		return nil, missing(err, in.ID)
	}
	if a.URL != "" || a.CA != 0 {
		return answer(a), nil
	}
	by, err := acmekey.Open(ctx, h.keys, a)
	if err != nil {
		return nil, err
	}
	url, failed := acmekey.Register(ctx, h.keys, h.ca.At(a.Directory), a, by)
	why := ""
	if failed != nil {
		if !acmekey.OfTheCA(failed) {
			return nil, failed
		}
		why = failed.Error()
	}
	if err := h.store.RegisterACMEAccount(ctx, in.User, in.ID, "", url, why, h.now()); err != nil {
		return nil, missing(err, in.ID)
	}
	if failed != nil {
		return nil, ofTheCA("The account is not registered", failed)
	}
	h.audit(ctx, "registered", a)
	if a, err = h.store.ACMEAccount(ctx, in.User, in.ID); err != nil {
		return nil, missing(err, in.ID)
	}
	return answer(a), nil
}

func missing(err error, id int64) error {
	if errors.Is(err, store.ErrNotFound) {
		return problem.NotFound.New("There is no ACME account %d.", id)
	}
	return err
}

// audit writes the line that each change of an account leaves.
func (h *handler) audit(ctx context.Context, change string, a acmeaccount.Account) {
	caller, _ := access.FromContext(ctx)
	h.log.LogAttrs(ctx, slog.LevelInfo, "ACME account "+change,
		slog.Int64("user", a.User), slog.Int64("id", a.ID), slog.String("provider", a.Provider), slog.String("principal", caller.Principal()))
}
