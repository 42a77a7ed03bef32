// Package idempotency lets a client repeat a create under an Idempotency-Key header without creating
// twice. The answer of the first execution is stored in the transaction that creates, and given again
// for a day; the same key with another request is refused.
//
// An answer may hold a token, which must be stored nowhere. So it is sealed with AES-256-GCM under a
// key derived (HKDF, RFC 5869) from the caller's own token and the Idempotency-Key: who reads the
// table has neither.
package idempotency

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/authn"
	"cjj365.cc/bb/shared/problem"
	"cjj365.cc/bb/shared/store"
	"cjj365.cc/bb/shared/wire"
)

// Header is what a request embeds to be repeatable.
type Header struct {
	Key string `header:"Idempotency-Key" maxLength:"255" doc:"Makes the request repeatable for 24 hours: the first answer is given again."`

	credential authn.Credential
	err        error
}

// Resolve takes the caller's token from the request, for the seal.
func (h *Header) Resolve(ctx huma.Context) []error {
	h.credential, h.err = authn.PresentedIn(ctx.EachHeader)
	return nil
}

// Answer is the answer to such a request.
type Answer[T any] struct {
	Replayed string `header:"Idempotency-Replayed" doc:"true if this is the answer of an earlier request."`
	Body     wire.Data[T]
}

// Do carries out create once, for the caller of ctx. create is given what seals its answer into the record that
// it must store with what it creates; the record is nil if the request has no key. It returns store.ErrConflict
// if the record exists already.
func Do[T any](ctx context.Context, s *store.Store, h *Header, operation string, request any, now time.Time,
	create func(seal func(T) (*store.Idempotency, error)) (T, error)) (*Answer[T], error) {
	return do(ctx, s, h, operation, request, now, false, create)
}

// DoAlone is Do of which no two with the same key are begun: what is created cannot be taken back. The others wait
// for its answer, a while.
func DoAlone[T any](ctx context.Context, s *store.Store, h *Header, operation string, request any, now time.Time,
	create func(seal func(T) (*store.Idempotency, error)) (T, error)) (*Answer[T], error) {
	return do(ctx, s, h, operation, request, now, true, create)
}

func do[T any](ctx context.Context, s *store.Store, h *Header, operation string, request any, now time.Time, alone bool,
	create func(seal func(T) (*store.Idempotency, error)) (T, error)) (*Answer[T], error) {
	caller, _ := access.FromContext(ctx)
	answer, replayed, err := once(ctx, s, h, caller, operation, request, now, alone, create)
	if err != nil {
		return nil, err
	}
	a := &Answer[T]{Body: wire.Data[T]{Data: answer}}
	if replayed {
		a.Replayed = "true"
	}
	return a, nil
}

// once is Do; replayed tells that answer is that of an earlier request.
func once[T any](ctx context.Context, s *store.Store, h *Header, caller access.Caller, operation string, request any, now time.Time, alone bool,
	create func(seal func(T) (*store.Idempotency, error)) (T, error)) (answer T, replayed bool, err error) {
	if h.Key == "" {
		answer, err = create(func(T) (*store.Idempotency, error) { return nil, nil })
		return answer, false, err
	}
	if h.err != nil { // the authorizer let it in: it and this function would disagree
		return answer, false, fmt.Errorf("the token that seals the answer: %w", h.err)
	}
	digest, err := digestOf(operation, request)
	if err != nil {
		return answer, false, err
	}
	find := func() (bool, error) {
		record, err := s.Idempotency(ctx, caller.Principal(), h.Key, now)
		if errors.Is(err, store.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		err = open(h, digest, record, &answer)
		return !errors.Is(err, errClaimed), err
	}
	if found, err := find(); found || err != nil && !errors.Is(err, errClaimed) {
		return answer, found, err
	}
	record := store.Idempotency{Principal: caller.Principal(), ClientKey: h.Key, Request: digest, CreatedAt: now}
	if alone {
		record.Claim = rand.Text()
		if found, err := claim(ctx, s, record, find); found || err != nil {
			return answer, found, err
		}
	}
	created, err := create(func(answer T) (*store.Idempotency, error) {
		record := record
		record.Answer, err = seal(h, digest, answer)
		return &record, err
	})
	if err != nil && alone {
		if left := s.UnclaimIdempotency(context.WithoutCancel(ctx), record); left != nil { // it lapses
			err = errors.Join(err, left)
		}
	}
	if !errors.Is(err, store.ErrConflict) {
		return created, false, err
	}
	if found, err := find(); found || err != nil { // another request with the key was first
		return answer, found, err
	}
	return created, false, store.ErrConflict
}

// errClaimed says that a request with the key is being carried out.
var errClaimed = func() error {
	p := problem.Conflict.New("A request with this Idempotency-Key is being carried out. Try again in a moment.")
	p.RetryAfter = time.Second
	return p
}()

// How long a request waits for another with the same key, and how often it looks.
const waitFor, lookEvery = 3 * time.Second, 100 * time.Millisecond

// claim has a record for this request alone, or finds the answer of another that had it.
func claim(ctx context.Context, s *store.Store, record store.Idempotency, find func() (bool, error)) (found bool, err error) {
	limit := time.NewTimer(waitFor)
	defer limit.Stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if err := s.ClaimIdempotency(ctx, record); !errors.Is(err, store.ErrConflict) {
			return false, err
		}
		if found, err := find(); found || err != nil && !errors.Is(err, errClaimed) {
			return found, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-limit.C:
			return false, errClaimed
		case <-tick.C:
		}
	}
}

func digestOf(operation string, request any) ([]byte, error) {
	text, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("digest a request: %w", err)
	}
	digest := sha256.Sum256(append([]byte(operation+"\x00"), text...))
	return digest[:], nil
}

func (h *Header) cipher() (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(h.credential.Token.Reveal()), []byte(h.Key), "bb idempotent answer", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func seal(h *Header, digest []byte, answer any) ([]byte, error) {
	plain, err := json.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("seal an answer: %w", err)
	}
	aead, err := h.cipher()
	if err != nil {
		return nil, fmt.Errorf("seal an answer: %w", err)
	}
	return aead.Seal(nil, nil, plain, digest), nil
}

func open(h *Header, digest []byte, record store.Idempotency, answer any) error {
	if string(digest) != string(record.Request) {
		return problem.IdempotencyReuse.New("This Idempotency-Key was used for another request. Use a new one.")
	}
	if record.Claim != "" {
		return errClaimed
	}
	aead, err := h.cipher()
	if err != nil {
		return fmt.Errorf("open an answer: %w", err)
	}
	plain, err := aead.Open(nil, nil, record.Answer, digest)
	if err != nil { // sealed under the token that this key or session had before
		return problem.Conflict.New("This request has been carried out, with another token of the same caller. Its answer cannot be shown again.")
	}
	if err := json.Unmarshal(plain, answer); err != nil {
		return fmt.Errorf("open an answer: %w", err)
	}
	return nil
}
