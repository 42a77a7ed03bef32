package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/mail"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/apikey"
	"cjj365.cc/bb/shared/store"
)

// Limits of what strangers can make us do.
var (
	accountLimit = store.Limit{Most: 100, Window: time.Hour} // of a CA
	orderLimit   = store.Limit{Most: 300, Window: time.Hour} // of an account
)

// accountObject is an account as clients see it (RFC 8555 §7.1.2).
type accountObject struct {
	Status  acmeserver.Status `json:"status"`
	Contact []string          `json:"contact"`
	Orders  string            `json:"orders"`
}

func (q *request) show(a acmeserver.Account) accountObject {
	contacts := a.Contacts
	if contacts == nil {
		contacts = []string{}
	}
	return accountObject{a.Status(), contacts, q.at("account", a.ID, "orders")}
}

// newAccount makes an account, or finds the one that the key has (RFC 8555 §7.3). Of two requests at once with one key
// both get the same account: the key's claim is written once.
func (h *handler) newAccount(q *request) (answer, error) {
	var asked struct {
		Contact      []string        `json:"contact"`
		OnlyExisting bool            `json:"onlyReturnExisting"`
		Binding      json.RawMessage `json:"externalAccountBinding"`
	}
	if err := q.decode(&asked); err != nil {
		return answer{}, err
	}
	print, err := thumbprint(q.key)
	if err != nil {
		return answer{}, err
	}
	existing := func() (answer, error) {
		a, err := h.store.ServerAccountByKey(q.Context(), q.ca.ID, print)
		if err != nil {
			return answer{}, err
		}
		if a.Status() != acmeserver.Valid { // RFC 8555 §7.3.6: it never comes back
			return answer{}, refuse(unauthorized, "The account of this key was deactivated.")
		}
		return answer{location: q.at("account", a.ID), body: q.show(a)}, nil
	}
	found, err := existing()
	if !errors.Is(err, store.ErrNotFound) {
		return found, err
	}
	if asked.OnlyExisting {
		return answer{}, refuse(accountDoesNotExist, "No account at this CA has this key.")
	}
	contacts, err := checkContacts(asked.Contact)
	if err != nil {
		return answer{}, err
	}
	if len(asked.Binding) == 0 || string(asked.Binding) == "null" {
		return answer{}, refuse(externalAccountRequired, "This CA makes accounts with an external account binding only. Mint one, and give the client its kid and HMAC key.")
	}
	kid, err := q.bound(asked.Binding, print)
	if err != nil {
		return answer{}, err
	}
	b, err := h.binding(q, kid)
	if err != nil {
		return answer{}, err
	}
	switch b.Status(h.now()) {
	case acmeserver.BindingExpired:
		return answer{}, refuse(unauthorized, "The external account binding has expired. Mint another.")
	case acmeserver.BindingUsed:
		if found, err := existing(); err == nil { // by the same key, a moment ago
			return found, nil
		}
		return answer{}, refuse(unauthorized, "The external account binding was used as often as it may be. Mint another.")
	}
	if err := h.store.Count(q.Context(), "acme-account:"+q.PathValue("ca"), accountLimit, h.now()); err != nil {
		return answer{}, err
	}
	jwk, err := marshalKey(q.key)
	if err != nil {
		return answer{}, err
	}
	a, err := h.store.CreateServerAccount(q.Context(), acmeserver.Account{
		User: q.ca.User, CA: q.ca.ID, ID: acmeserver.NewID(), Key: jwk, Thumbprint: print, Contacts: contacts, Binding: b.ID, CreatedAt: h.now(),
	})
	switch {
	case errors.Is(err, store.ErrConflict):
		return existing()
	case errors.Is(err, store.ErrBindingSpent):
		return answer{}, refuse(unauthorized, "The external account binding was used as often as it may be, or is gone. Mint another.")
	case err != nil:
		return answer{}, err
	}
	h.log.LogAttrs(q.Context(), slog.LevelInfo, "ACME account", slog.Int64("user", a.User), slog.Int64("ca", a.CA), slog.String("principal", a.Principal()),
		slog.String("binding", b.ID), slog.Int64("api_key", b.APIKey))
	return answer{status: http.StatusCreated, location: q.at("account", a.ID), body: q.show(a)}, nil
}

// bound checks an external account binding (RFC 8555 §7.3.4), a JWS over the account's key, and gives its kid.
func (q *request) bound(text []byte, print string) (kid string, err error) {
	s, err := parseJWS(text, macAlgorithms)
	if err != nil {
		e := refusalOf(err)
		e.detail = "externalAccountBinding: " + e.detail
		return "", e
	}
	wrong := refuse(unauthorized, "The external account binding is not by the HMAC key of its kid, or for another key or address.")
	if s.kid == "" || s.nonce != "" || s.url != q.url || !isID(s.kid) {
		return "", wrong
	}
	payload, err := s.jws.Verify(q.server.secret.BindingKey(s.kid))
	if err != nil {
		return "", wrong
	}
	var key jose.JSONWebKey
	if key.UnmarshalJSON(payload) != nil || !key.Valid() || !key.IsPublic() {
		return "", wrong
	}
	if its, err := thumbprint(key.Key); err != nil || its != print {
		return "", wrong
	}
	return s.kid, nil
}

// binding reads a binding that is still good for something: it is there, and so is the API key that minted it.
func (h *handler) binding(q *request, id string) (acmeserver.Binding, error) {
	b, err := h.store.Binding(q.Context(), q.ca.ID, id)
	if errors.Is(err, store.ErrNotFound) {
		return b, refuse(unauthorized, "The external account binding that this account was made with is gone.")
	}
	if err != nil || b.APIKey == 0 {
		return b, err
	}
	k, err := h.store.APIKey(q.Context(), q.ca.User, b.APIKey)
	if errors.Is(err, store.ErrNotFound) || err == nil && k.Status(h.now()) != apikey.Active {
		return b, refuse(unauthorized, "The API key that this account was made with is gone.")
	}
	return b, err
}

// Bounds of contacts.
const maxContacts, maxContact = 10, 254

// checkContacts takes e-mail addresses (RFC 8555 §7.3): one in each URL, without header fields.
func checkContacts(contacts []string) ([]string, error) {
	if len(contacts) > maxContacts {
		return nil, refuse(invalidContact, "An account can have %d contacts.", maxContacts)
	}
	for _, c := range contacts {
		scheme, address, _ := strings.Cut(c, ":")
		if !strings.EqualFold(scheme, "mailto") {
			return nil, refuse(unsupportedContact, "A contact is a mailto: URL, not %.100q.", c)
		}
		parsed, err := mail.ParseAddress(address)
		if err != nil || parsed.Address != address || len(address) > maxContact || strings.ContainsAny(address, "?,%") {
			return nil, refuse(invalidContact, "%.100q is not one e-mail address.", c)
		}
	}
	return contacts, nil
}

// account reads the account, changes its contacts, or deactivates it (RFC 8555 §7.3.2, §7.3.6).
func (h *handler) account(q *request) (answer, error) {
	if q.PathValue("account") != q.account.ID {
		return answer{}, refuse(unauthorized, "This is another account's.")
	}
	if len(q.payload) == 0 {
		return answer{body: q.show(q.account)}, nil
	}
	var asked struct {
		Contact *[]string         `json:"contact"`
		Status  acmeserver.Status `json:"status"`
	}
	if err := q.decode(&asked); err != nil {
		return answer{}, err
	}
	after := q.account
	if asked.Contact != nil {
		contacts, err := checkContacts(*asked.Contact)
		if err != nil {
			return answer{}, err
		}
		after.Contacts = contacts
	}
	switch asked.Status {
	case "", acmeserver.Valid:
	case acmeserver.Deactivated:
		after.DeactivatedAt = h.now()
	default:
		return answer{}, refuse(malformed, "A client can set the status to deactivated only.")
	}
	if asked.Contact == nil && after.DeactivatedAt.IsZero() {
		return answer{body: q.show(q.account)}, nil
	}
	after, err := h.store.ChangeServerAccount(q.Context(), after)
	if errors.Is(err, store.ErrConflict) {
		return answer{}, busy()
	}
	if err != nil {
		return answer{}, err
	}
	if after.Status() == acmeserver.Deactivated {
		h.log.LogAttrs(q.Context(), slog.LevelInfo, "ACME account deactivated", slog.Int64("user", after.User), slog.Int64("ca", after.CA), slog.String("principal", after.Principal()))
	}
	return answer{body: q.show(after)}, nil
}

// busy is the answer to a change when another came first.
func busy() error {
	e := refuse(serverInternal, "It was changed at the same time; try again.").with(http.StatusServiceUnavailable)
	e.retryAfter = time.Second
	return e
}

// ordersShown is how many orders a list has.
const ordersShown = 100

// orders lists the account's last orders (RFC 8555 §7.1.2.1).
func (h *handler) orders(q *request) (answer, error) {
	if q.PathValue("account") != q.account.ID {
		return answer{}, refuse(unauthorized, "This is another account's.")
	}
	ids, err := h.store.ServerOrders(q.Context(), q.ca.ID, q.account.ID, ordersShown, h.now())
	if err != nil {
		return answer{}, err
	}
	urls := []string{}
	for _, id := range ids {
		urls = append(urls, q.at("order", id))
	}
	return answer{body: map[string]any{"orders": urls}}, nil
}

// keyChange gives the account another key (RFC 8555 §7.3.5). The payload is a JWS by the new key, over the account and
// the old one: both keys have signed.
func (h *handler) keyChange(q *request) (answer, error) {
	s, err := parseJWS(q.payload, algorithms)
	if err != nil {
		e := refusalOf(err)
		e.detail = "The JWS inside: " + e.detail
		return answer{}, e
	}
	if s.jwk == nil || s.nonce != "" || s.url != q.url {
		return answer{}, refuse(malformed, "The JWS inside must have the new key as jwk, the same url, and no nonce.")
	}
	key, err := s.publicKey()
	if err != nil {
		return answer{}, err
	}
	payload, err := s.verify(key)
	if err != nil {
		return answer{}, err
	}
	var asked struct {
		Account string          `json:"account"`
		OldKey  jose.JSONWebKey `json:"oldKey"`
	}
	if json.Unmarshal(payload, &asked) != nil || asked.Account != q.at("account", q.account.ID) {
		return answer{}, refuse(malformed, "The JWS inside must be over this account and its old key.")
	}
	if old, err := thumbprint(asked.OldKey.Key); err != nil || old != q.account.Thumbprint {
		return answer{}, refuse(malformed, "The oldKey is not the account's.")
	}
	print, err := thumbprint(key)
	if err != nil {
		return answer{}, err
	}
	jwk, err := marshalKey(key)
	if err != nil {
		return answer{}, err
	}
	after, err := h.store.RollServerAccount(q.Context(), q.account, jwk, print)
	switch {
	case errors.Is(err, store.ErrKeyTaken):
		e := refuse(malformed, "An account has the new key already.").with(http.StatusConflict)
		if other, err := h.store.ServerAccountByKey(q.Context(), q.ca.ID, print); err == nil {
			e.location = q.at("account", other.ID)
		}
		return answer{}, e
	case errors.Is(err, store.ErrConflict):
		return answer{}, busy()
	case err != nil:
		return answer{}, err
	}
	h.log.LogAttrs(q.Context(), slog.LevelInfo, "ACME account's key changed", slog.Int64("user", after.User), slog.Int64("ca", after.CA), slog.String("principal", after.Principal()))
	return answer{body: q.show(after)}, nil
}

// decodeBase64 reads base64url without padding (RFC 8555 §6.1).
func decodeBase64(text string) ([]byte, bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return b, err == nil && len(b) > 0
}
