package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/netip"
	"slices"
	"time"

	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/session"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/token"
	"cjj365.cc/bb/shared/user"
	"cjj365.cc/bb/shared/wire"
)

type generalRequest struct {
	Body generalBody
}

// generalBody is the fields of every action; each action says which it needs.
type generalBody struct {
	Action      string `json:"action" enum:"login,register,activate-user,request-reset-password,reset-password"`
	Email       string `json:"email,omitempty" maxLength:"1024"`
	Password    string `json:"password,omitempty" maxLength:"1024"`
	Name        string `json:"name,omitempty" maxLength:"1024" doc:"register: 3 to 64 of A-Z a-z 0-9 . _ -; made if absent."`
	Country     string `json:"country_of_residence,omitempty" maxLength:"64" doc:"register: two letters; US if absent."`
	Code        string `json:"verify_code,omitempty" maxLength:"64"`
	NewPassword string `json:"new_password,omitempty" maxLength:"1024"`
	Next        string `json:"next,omitempty" maxLength:"2048"`
	TokenType   string `json:"token_type,omitempty" enum:"Bearer" doc:"login: answer with tokens instead of a cookie."`
}

type generalResponse struct {
	SetCookie string `header:"Set-Cookie"`
	Body      wire.Data[generalData]
}

// generalData is the answers of every action.
type generalData struct {
	User    *person       `json:"user,omitempty"`
	To      string        `json:"to,omitempty"`
	Session *session.Pair `json:"session,omitempty"`
	Email   string        `json:"email,omitempty"`
	Status  string        `json:"status,omitempty"`
}

// unhurried is how long the answer takes to a request whose work would tell, by its time, whether an
// address has an account. Work that takes longer is answered at the next multiple.
const unhurried = 2 * time.Second

func (h *handler) general(ctx context.Context, in *generalRequest) (*generalResponse, error) {
	body := in.Body
	if body.Email == "" {
		return nil, needs("email")
	}
	email, err := user.NormalizeEmail(body.Email)
	if err != nil {
		return nil, err
	}
	body.Email = email
	if body.Action == "login" {
		return h.login(ctx, body)
	}
	a := actions[body.Action]
	// What is refused here is refused whether the address has an account or not, so at once.
	if err := a.check(body); err != nil {
		return nil, err
	}
	if err := h.count(ctx, body.Action, email, a.limit, h.now()); err != nil {
		return nil, err
	}
	return h.slowly(ctx, body, a.status, func() error { return a.do(h, ctx, body) })
}

// action is one of the actions whose time must not tell.
type action struct {
	check  func(generalBody) error
	limit  store.Limit
	do     func(*handler, context.Context, generalBody) error
	status string
}

var actions = map[string]action{
	"register":               {checkRegistration, mailsPerAccount, (*handler).register, "waiting_for_verification"},
	"activate-user":          {checkCode, perAccount, (*handler).activate, "activation_successful"},
	"request-reset-password": {func(generalBody) error { return nil }, mailsPerAccount, (*handler).requestReset, "reset_code_sent"},
	"reset-password":         {checkReset, perAccount, (*handler).resetPassword, "password_reset_success"},
}

func checkRegistration(body generalBody) error {
	if _, err := user.NormalizeCountry(body.Country); err != nil {
		return err
	}
	if body.Password == "" {
		return needs("password")
	}
	if body.Name != "" {
		if err := user.CheckName(body.Name); err != nil {
			return err
		}
	}
	return user.CheckPassword(body.Password)
}

func checkCode(body generalBody) error {
	if body.Code == "" {
		return needs("verify_code")
	}
	return nil
}

func checkReset(body generalBody) error {
	if body.NewPassword == "" {
		return needs("new_password")
	}
	if err := user.CheckPassword(body.NewPassword); err != nil {
		return err
	}
	return checkCode(body)
}

func needs(field string) error {
	return problem.MissingField.New("%s: this action needs it.", field).With("field", field)
}

// slowly answers a request at a fixed time after it came, or a multiple of it.
func (h *handler) slowly(ctx context.Context, body generalBody, status string, do func() error) (*generalResponse, error) {
	begin := h.now()
	err := do()
	h.wait(ctx, begin.Add(h.now().Sub(begin).Truncate(unhurried)+unhurried))
	if err != nil {
		return nil, err
	}
	return &generalResponse{Body: wire.Data[generalData]{Data: generalData{Email: body.Email, Status: status}}}, nil
}

func (h *handler) login(ctx context.Context, body generalBody) (*generalResponse, error) {
	if body.Password == "" {
		return nil, needs("password")
	}
	now := h.now()
	if err := h.count(ctx, "login", body.Email, perAccount, now); err != nil {
		return nil, err
	}
	for range attempts {
		u, err := h.store.UserByEmail(ctx, body.Email)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if !user.Verify(body.Password, u.PasswordHash) {
			h.log.LogAttrs(ctx, slog.LevelInfo, "login refused", slog.Int64("user", u.ID))
			return nil, problem.WrongCredentials.New("Wrong e-mail address or password.")
		}
		if u.State != user.Active {
			return nil, problem.Forbidden.New("The account is not active. Activate it with the code that was mailed.")
		}
		response, err := h.newSession(ctx, u, body.TokenType == "Bearer")
		if errors.Is(err, store.ErrConflict) { // another login, or the password has changed: look again
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := h.store.Uncount(ctx, "login#"+body.Email, perAccount, now); err != nil {
			h.log.WarnContext(ctx, "a good login stays counted as a try", "error", err)
		}
		h.audit(ctx, "logged in", u.ID)
		return response, nil
	}
	return nil, errBusy
}

// attempts is how often a change that others interrupt is tried.
const attempts = 10

var errBusy = problem.Unavailable.New("Too many changes of the account at the same time; try again.")

// newSession begins a session, carried by a cookie or, with its line of refresh tokens, by the answer.
func (h *handler) newSession(ctx context.Context, u user.User, bearer bool) (*generalResponse, error) {
	id, err := randomID()
	if err != nil {
		return nil, err
	}
	now := h.now()
	login, t := session.New(u.ID, id, u.Email, now)
	response := &generalResponse{Body: wire.Data[generalData]{Data: generalData{User: show(u), To: "/"}}}
	var family *session.Family
	if bearer {
		f, refresh := session.NewFamily(u.ID, id, u.Email, now)
		f.Session, login.Family, login.ExpiresAt = id, id, now.Add(session.AccessLifetime)
		family, response.Body.Data.Session = &f, newPair(t, refresh)
	} else {
		response.SetCookie = cookie(ctx, t.Reveal())
	}
	return response, h.store.CreateSession(ctx, u, login, family)
}

// randomID draws the id of a session or a code.
func randomID() (int64, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(token.MaxID))
	if err != nil {
		return 0, fmt.Errorf("draw an id: %w", err)
	}
	return n.Int64() + 1, nil
}

// register keeps an account that waits for activation, and a code. The code brings the password, name and
// country of its registration: until it is used they are nobody's, and nothing can be seen of them.
func (h *handler) register(ctx context.Context, body generalBody) error {
	country, err := user.NormalizeCountry(body.Country)
	if err != nil {
		return err
	}
	hash, err := user.Hash(body.Password)
	if err != nil {
		return err
	}
	if body.Name != "" {
		taken, err := h.store.NameTaken(ctx, body.Name)
		if err != nil {
			return err
		}
		if taken {
			return problem.AlreadyExists.New("name is taken; choose another.")
		}
	}
	u, err := h.store.UserByEmail(ctx, body.Email)
	switch {
	case err == nil && u.State == user.Active:
		return h.send(ctx, body.Email, "You have an account", "Somebody, perhaps you, tried to register with this address, which has an account.\nIf you have forgotten its password, ask for a reset.\n")
	case errors.Is(err, store.ErrNotFound):
		_, err = h.store.CreateUser(ctx, user.User{
			Email: body.Email, Country: country, Roles: []string{"user"}, State: user.Inactive, PasswordHash: hash, CreatedAt: h.now(),
		})
		if errors.Is(err, store.ErrEmailTaken) { // registered twice at once: one account, two codes
			err = nil
		}
	}
	if err != nil {
		return err
	}
	text := fmt.Sprintf("Somebody, perhaps you, registered with this address at %s UTC", h.now().UTC().Format(time.TimeOnly))
	if body.Name != "" {
		text += " as " + body.Name
	}
	return h.sendCode(ctx, store.Code{Purpose: user.Activate, Email: body.Email, PasswordHash: hash, Name: body.Name, Country: country}, "Your activation code",
		text+".\nIf that was you: to activate the account with the password you chose then, enter the code")
}

func (h *handler) activate(ctx context.Context, body generalBody) error {
	code, u, err := h.tryCode(ctx, user.Activate, body)
	if err != nil {
		return err
	}
	if u.State != user.Inactive { // activated by another code meanwhile
		return errWrongCode
	}
	if err := h.store.Activate(ctx, u, code); err != nil {
		return spent(err)
	}
	h.audit(ctx, "activated", u.ID)
	return nil
}

func (h *handler) requestReset(ctx context.Context, body generalBody) error {
	u, err := h.store.UserByEmail(ctx, body.Email)
	if errors.Is(err, store.ErrNotFound) || err == nil && u.State != user.Active {
		return nil // the same answer, at the same time, and no mail
	}
	if err != nil {
		return err
	}
	return h.sendCode(ctx, store.Code{Purpose: user.ResetPassword, Email: body.Email, PasswordHash: u.PasswordHash}, "Your reset code", "To set a new password, enter the code")
}

func (h *handler) resetPassword(ctx context.Context, body generalBody) error {
	hash, err := user.Hash(body.NewPassword)
	if err != nil {
		return err
	}
	code, u, err := h.tryCode(ctx, user.ResetPassword, body)
	if err != nil {
		return err
	}
	for range attempts {
		if u.PasswordHash != code.PasswordHash { // reset by another code since this one was asked for
			return errWrongCode
		}
		u.PasswordHash = hash
		err := h.store.ResetPassword(ctx, u, code)
		if err == nil {
			h.audit(ctx, "reset its password", u.ID)
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return spent(err)
		}
		if u, err = h.store.User(ctx, u.ID); err != nil { // a login or a refresh came between
			return err
		}
	}
	return errBusy
}

var errWrongCode = problem.InvalidArgument.New("The code is wrong or has expired. Ask for a new one.")

// spent is the answer when a code was used up by another request.
func spent(err error) error {
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
		return errWrongCode
	}
	return err
}

// tryCode checks a verification code and finds its user.
func (h *handler) tryCode(ctx context.Context, purpose user.Purpose, body generalBody) (store.Code, user.User, error) {
	codes, err := h.store.TryCodes(ctx, purpose, body.Email, h.now())
	if err != nil {
		return store.Code{}, user.User{}, err
	}
	i := slices.IndexFunc(codes, func(c store.Code) bool { return user.Verify(body.Code, c.Hash) })
	if i < 0 {
		return store.Code{}, user.User{}, errWrongCode
	}
	u, err := h.store.UserByEmail(ctx, body.Email)
	return codes[i], u, err
}

// sendCode makes a code, keeps its hash and mails it.
func (h *handler) sendCode(ctx context.Context, kept store.Code, subject, text string) error {
	code, err := user.NewCode()
	if err != nil {
		return err
	}
	if kept.Hash, err = user.Hash(code); err != nil {
		return err
	}
	if kept.ID, err = randomID(); err != nil {
		return err
	}
	kept.ExpiresAt = h.now().Add(user.CodeLifetime)
	if err := h.store.PutCode(ctx, kept); err != nil {
		return err
	}
	return h.send(ctx, kept.Email, subject, fmt.Sprintf("%s\n\n    %s\n\nIt is valid for %d minutes. If it was not you, ignore this message.\n", text, code, int(user.CodeLifetime.Minutes())))
}

// send mails, and keeps a failure from the caller: it would tell that the address has an account. The
// log has it, and the user asks again.
func (h *handler) send(ctx context.Context, email, subject, text string) error {
	if err := h.mail.Send(ctx, email, "BB: "+subject, text); err != nil {
		h.log.ErrorContext(ctx, "a message was not sent", "error", err)
	}
	return nil
}

// network is what an address is counted as: IPv6 users have a /64 each.
func network(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return "unknown"
	}
	if a = a.Unmap(); a.Is4() {
		return a.String()
	}
	p, _ := a.WithZone("").Prefix(64) // 64 bits are never too many
	return p.String()
}
