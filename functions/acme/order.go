package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"cjj365.cc/bb/shared/acmeserver"
	"cjj365.cc/bb/shared/ca"
	"cjj365.cc/bb/shared/pki"
	"cjj365.cc/bb/shared/store"
)

// orderObject is an order as clients see it (RFC 8555 §7.1.3).
type orderObject struct {
	Status         acmeserver.Status       `json:"status"`
	Expires        string                  `json:"expires"`
	Identifiers    []acmeserver.Identifier `json:"identifiers"`
	Profile        string                  `json:"profile,omitempty"`
	NotAfter       string                  `json:"notAfter,omitempty"`
	Replaces       string                  `json:"replaces,omitempty"`
	Error          *storedProblem          `json:"error,omitempty"`
	Authorizations []string                `json:"authorizations"`
	Finalize       string                  `json:"finalize"`
	Certificate    string                  `json:"certificate,omitempty"`
}

// issuingPoll is when to ask again for an order that another process issues.
const issuingPoll = 3 * time.Second

func (h *handler) showOrder(q *request, o acmeserver.Order) answer {
	status := o.Status(h.now())
	shown := orderObject{
		Status: status, Expires: o.ExpiresAt.Format(time.RFC3339), Profile: o.Profile, Replaces: o.Replaces, Error: shownProblem(o.Error),
		Finalize: q.at("order", o.ID, "finalize"),
	}
	for i, a := range o.Authorizations {
		shown.Identifiers = append(shown.Identifiers, acmeserver.IdentifierOf(a.Name))
		shown.Authorizations = append(shown.Authorizations, q.at("authz", o.ID, strconv.Itoa(i)))
	}
	if !o.NotAfter.IsZero() {
		shown.NotAfter = o.NotAfter.Format(time.RFC3339)
	}
	a := answer{location: q.at("order", o.ID), body: &shown}
	switch status {
	case acmeserver.Valid:
		shown.Certificate = q.at("cert", o.ID)
	case acmeserver.Processing:
		a.retryAfter = issuingPoll
	}
	return a
}

// newOrder opens an order (RFC 8555 §7.4). What the CA would not certify is refused here, name by name, and not when
// the client has done its challenges.
func (h *handler) newOrder(q *request) (answer, error) {
	var asked struct {
		Identifiers []acmeserver.Identifier `json:"identifiers"`
		NotBefore   string                  `json:"notBefore"`
		NotAfter    string                  `json:"notAfter"`
		Profile     string                  `json:"profile"`
		Replaces    string                  `json:"replaces"`
	}
	if err := q.decode(&asked); err != nil {
		return answer{}, err
	}
	names, err := identified(asked.Identifiers)
	if err != nil {
		return answer{}, err
	}
	if asked.NotBefore != "" {
		return answer{}, refuse(malformed, "notBefore cannot be chosen here: a certificate begins when it is made.")
	}
	b, err := h.binding(q, q.account.Binding)
	if err != nil {
		return answer{}, err
	}
	now := h.now()
	o := acmeserver.Order{
		User: q.ca.User, CA: q.ca.ID, ID: acmeserver.NewID(), Account: q.account.ID, CreatedAt: now,
		ExpiresAt: now.Add(acmeserver.OrderLifetime).UTC().Truncate(time.Second),
	}
	if asked.NotAfter != "" {
		at, err := time.Parse(time.RFC3339, asked.NotAfter)
		if err != nil || !at.After(now) {
			return answer{}, refuse(malformed, "notAfter must be a time to come, by RFC 3339.")
		}
		o.NotAfter = at.UTC().Truncate(time.Second)
	}
	at, err := h.active(q.Context(), q.ca)
	if err != nil {
		return answer{}, err
	}
	if o.Profile, err = profile(at, b, asked.Profile); err != nil {
		return answer{}, err
	}
	plan, refused, err := at.Look(requestOf(o, names), now)
	if err != nil {
		return answer{}, err
	}
	if len(refused) > 0 {
		return answer{}, rejected(refused)
	}
	if !o.NotAfter.IsZero() && plan.Template.NotAfter.Before(o.NotAfter) { // RFC 8555 §7.4: just that, or an error
		return answer{}, refuse(malformed, "notAfter is beyond the end of the CA, %s.", at.Certificate().NotAfter.Format(time.RFC3339))
	}
	if asked.Replaces != "" {
		if err := h.replacing(q, &o, asked.Replaces); err != nil {
			return answer{}, err
		}
	}
	if err := h.store.Count(q.Context(), "acme-order:"+q.account.ID, orderLimit, now); err != nil {
		return answer{}, err
	}
	for _, name := range names {
		o.Authorizations = append(o.Authorizations, acmeserver.Authorize(name, b, now))
	}
	if o, err = h.store.CreateServerOrder(q.Context(), o); err != nil {
		return answer{}, err
	}
	a := h.showOrder(q, o)
	a.status = http.StatusCreated
	return a, nil
}

// requestOf is what an order asks of the CA.
func requestOf(o acmeserver.Order, names []string) ca.Request {
	return ca.Request{Names: names, Profile: o.Profile, NotAfter: o.NotAfter}
}

// identified are the names of identifiers, each once.
func identified(identifiers []acmeserver.Identifier) ([]string, error) {
	if len(identifiers) == 0 || len(identifiers) > acmeserver.MaxIdentifiers {
		return nil, refuse(malformed, "An order has from 1 to %d identifiers, not %d.", acmeserver.MaxIdentifiers, len(identifiers))
	}
	var names []string
	var wrong []subproblem
	kind := ""
	for _, id := range identifiers {
		name, bad, why := nameOf(id)
		if why == "" {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
			continue
		}
		if kind == "" || kind == bad {
			kind = bad
		} else {
			kind = rejectedIdentifier
		}
		wrong = append(wrong, subproblem{namespace + bad, printable(why), &acmeserver.Identifier{Type: printable(id.Type), Value: printable(id.Value)}})
	}
	if len(wrong) == 0 {
		return names, nil
	}
	e := refuse(kind, "%q: %s", wrong[0].Identifier.Value, wrong[0].Detail)
	e.subproblems = wrong
	return nil, e
}

// nameOf is the name that an identifier stands for, or the kind of error and why it does not.
func nameOf(id acmeserver.Identifier) (name, kind, why string) {
	if id.Type != acmeserver.DNS && id.Type != acmeserver.IP {
		return "", unsupportedIdentifier, "Identifiers are of type dns or ip."
	}
	_, err := netip.ParseAddr(id.Value)
	switch {
	case (err == nil) != (id.Type == acmeserver.IP):
		return "", malformed, "The value does not belong to the type."
	case strings.Contains(strings.TrimPrefix(id.Value, "*."), "*"): // RFC 8555 §7.1.3
		return "", malformed, "An asterisk stands alone in the first label."
	}
	name, err = pki.Private.Name(id.Value)
	if err != nil {
		return "", rejectedIdentifier, refusalOf(err).detail
	}
	return name, "", ""
}

// rejected says what a CA refuses of an order.
func rejected(refused []ca.Refused) error {
	e := refuse(rejectedIdentifier, "The CA does not certify this: %s.", refused[0].Why)
	for _, r := range refused {
		switch {
		case r.Name != "":
			e.subproblems = append(e.subproblems, subproblemOf(rejectedIdentifier, r.Name, printable(r.Why)))
		case r.Field == "validity_seconds":
			return refuse(malformed, "notAfter: the lifetime: %s.", r.Why)
		}
	}
	return e
}

// profile is that of the binding, or else the one asked for (draft-ietf-acme-profiles §5); empty for the CA's default.
func profile(c ca.CA, b acmeserver.Binding, asked string) (string, error) {
	name := b.Profile
	if name != "" && asked != "" && asked != name {
		return "", refuse(invalidProfile, "This account gets the profile %s only.", name)
	}
	if name == "" {
		name = asked
	}
	var names []string
	for _, p := range offered(c) {
		names = append(names, p.Name)
	}
	if name != "" && !slices.Contains(names, name) {
		return "", refuse(invalidProfile, "The CA offers the profiles %s, not %.64q.", strings.Join(names, ", "), name)
	}
	return name, nil
}

// replacing notes which certificate an order replaces (RFC 9773 §5): one of the CA's, of the same account, that shares a
// name with it and that no order has replaced.
func (h *handler) replacing(q *request, o *acmeserver.Order, id string) error {
	authority, serial, ok := acmeserver.ParseCertificateID(id)
	if !ok {
		return refuse(malformed, "replaces: this is no id of a certificate (RFC 9773 §4.1).")
	}
	_, e, err := h.find(q.Context(), q.ca, authority, serial)
	if errors.Is(err, errNotOurs) || err == nil && e.By != q.account.Principal() {
		return refuse(malformed, "replaces: this account was issued no such certificate.")
	}
	if err != nil {
		return err
	}
	replaced, err := h.store.Replaced(q.Context(), q.ca.ID, id)
	if err != nil {
		return err
	}
	if replaced {
		return refuse(alreadyReplaced, "An order has replaced the certificate already.")
	}
	o.Replaces, o.ReplacesUntil = id, e.NotAfter
	return nil
}

// owned reads an order of the account.
func (h *handler) owned(q *request) (acmeserver.Order, error) {
	id := q.PathValue("order")
	missing := refuse(malformed, "There is no such order.").with(http.StatusNotFound)
	if !isID(id) {
		return acmeserver.Order{}, missing
	}
	o, err := h.store.ServerOrder(q.Context(), q.ca.ID, id, h.now())
	switch {
	case errors.Is(err, store.ErrNotFound):
		return o, missing
	case err == nil && o.Account != q.account.ID:
		return o, refuse(unauthorized, "This is another account's.")
	}
	return o, err
}

func (h *handler) order(q *request) (answer, error) {
	o, err := h.owned(q)
	if err != nil {
		return answer{}, err
	}
	return h.showOrder(q, o), nil
}

// authorizationObject is an authorization as clients see it (RFC 8555 §7.1.4).
type authorizationObject struct {
	Identifier acmeserver.Identifier `json:"identifier"`
	Status     acmeserver.Status     `json:"status"`
	Expires    string                `json:"expires"`
	Challenges []challengeObject     `json:"challenges"`
	Wildcard   bool                  `json:"wildcard,omitempty"`
}

// challengeObject is a challenge as clients see it (RFC 8555 §8).
type challengeObject struct {
	Type      string            `json:"type"`
	URL       string            `json:"url"`
	Status    acmeserver.Status `json:"status"`
	Token     string            `json:"token"`
	Validated string            `json:"validated,omitempty"`
	Error     *storedProblem    `json:"error,omitempty"`
}

func (q *request) showChallenge(order string, n int, c acmeserver.Challenge) challengeObject {
	shown := challengeObject{
		Type: c.Type, URL: q.at("challenge", order, strconv.Itoa(n), c.Type), Status: c.Status(), Token: c.Token, Error: shownProblem(c.Error),
	}
	if !c.ValidatedAt.IsZero() {
		shown.Validated = c.ValidatedAt.UTC().Format(time.RFC3339)
	}
	return shown
}

// numbered is the authorization of an order that the path names.
func (q *request) numbered(o acmeserver.Order) (int, error) {
	n, err := strconv.Atoi(q.PathValue("n"))
	if err != nil || n < 0 || n >= len(o.Authorizations) || strconv.Itoa(n) != q.PathValue("n") {
		return 0, refuse(malformed, "There is no such authorization.").with(http.StatusNotFound)
	}
	return n, nil
}

// authorization reads an authorization, or deactivates it (RFC 8555 §7.5, §7.5.2).
func (h *handler) authorization(q *request) (answer, error) {
	o, err := h.owned(q)
	if err != nil {
		return answer{}, err
	}
	n, err := q.numbered(o)
	if err != nil {
		return answer{}, err
	}
	if len(q.payload) > 0 {
		var asked struct {
			Status acmeserver.Status `json:"status"`
		}
		if err := q.decode(&asked); err != nil {
			return answer{}, err
		}
		if asked.Status != acmeserver.Deactivated {
			return answer{}, refuse(malformed, "A client can set the status to deactivated only.")
		}
		if o, err = h.change(q.Context(), o, func(o *acmeserver.Order) {
			if a := &o.Authorizations[n]; a.DeactivatedAt.IsZero() {
				a.DeactivatedAt = h.now()
			}
		}); err != nil {
			return answer{}, err
		}
	}
	a := o.Authorizations[n]
	shown := authorizationObject{
		Identifier: a.Identifier(), Status: a.Status(o.ExpiresAt, h.now()), Expires: o.ExpiresAt.Format(time.RFC3339), Wildcard: a.Wildcard(),
	}
	for _, c := range a.Shown() {
		shown.Challenges = append(shown.Challenges, q.showChallenge(o.ID, n, c))
	}
	return answer{body: shown}, nil
}

// change makes a change to an order, to what others have made of it meanwhile if it must.
func (h *handler) change(ctx context.Context, o acmeserver.Order, change func(*acmeserver.Order)) (acmeserver.Order, error) {
	for range 20 { // an order's challenges are answered side by side
		change(&o)
		after, err := h.store.ChangeServerOrder(ctx, o)
		if !errors.Is(err, store.ErrConflict) {
			return after, err
		}
		if o, err = h.store.ServerOrder(ctx, o.CA, o.ID, h.now()); err != nil {
			return o, err
		}
	}
	return o, busy()
}

// patience is how long a validation may take; the client waits for it.
const patience = 8 * time.Second

// challenge reads a challenge, or validates it (RFC 8555 §7.5.1) and answers with what came of it. Two requests at once
// validate twice, and what came of the first stays.
func (h *handler) challenge(q *request) (answer, error) {
	o, err := h.owned(q)
	if err != nil {
		return answer{}, err
	}
	n, err := q.numbered(o)
	if err != nil {
		return answer{}, err
	}
	c, ok := o.Authorizations[n].Challenge(q.PathValue("type"))
	if !ok {
		return answer{}, refuse(malformed, "There is no such challenge.").with(http.StatusNotFound)
	}
	if len(q.payload) > 0 {
		var asked map[string]json.RawMessage
		if err := q.decode(&asked); err != nil {
			return answer{}, err
		}
		if o.Authorizations[n].Status(o.ExpiresAt, h.now()) == acmeserver.Pending && o.Status(h.now()) == acmeserver.Pending {
			ctx, cancel := context.WithTimeout(q.Context(), patience)
			failed := h.prober.probe(ctx, c.Type, o.Authorizations[n].Identifier().Value, c.Token, c.Token+"."+q.account.Thumbprint)
			cancel()
			at := h.now()
			if o, err = h.change(q.Context(), o, func(o *acmeserver.Order) {
				if c, ok := o.Authorizations[n].Challenge(q.PathValue("type")); ok && c.Status() == acmeserver.Pending {
					if c.Error = failed; failed == nil {
						c.ValidatedAt = at
					}
				}
			}); err != nil {
				return answer{}, err
			}
			c, _ = o.Authorizations[n].Challenge(c.Type)
		}
	}
	return answer{up: q.at("authz", o.ID, strconv.Itoa(n)), body: q.showChallenge(o.ID, n, *c)}, nil
}
