package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"time"
)

// triesPerAccount keeps below the limit of tries on one account.
const triesPerAccount = 10

// login measures whether the time of a refused login tells that an address has an account.
func login(ctx context.Context, b *bench) error {
	s, err := startStack(ctx, b, filepath.Join(b.root, "template.yaml"), filepath.Join(b.root, "build"))
	if err != nil {
		return err
	}
	defer s.stop()
	pairs := b.rounds(60)
	accounts := (pairs + triesPerAccount - 1) / triesPerAccount
	if err := register(ctx, s, accounts); err != nil {
		return err
	}
	// The first user's tries start the process.
	for range 3 {
		if _, err := refused(ctx, s, s.Email); err != nil {
			return err
		}
	}
	var known, unknown []time.Duration
	for i := range pairs {
		at := []struct {
			email string
			times *[]time.Duration
		}{{knownEmail(i % accounts), &known}, {fmt.Sprintf("nobody%d@example.test", i%accounts), &unknown}}
		if i%2 == 1 { // neither always comes first
			at[0], at[1] = at[1], at[0]
		}
		for _, one := range at {
			took, err := refused(ctx, s, one.email)
			if err != nil {
				return err
			}
			*one.times = append(*one.times, took)
		}
	}
	ratio := quotient(median(known), median(unknown))
	b.table.add(line{"wrong password, address with an account", milliseconds(median(known)), milliseconds(median(unknown)) + " without one", times(ratio),
		"0.90x to 1.10x", ratio >= 0.9 && ratio <= 1.1})
	b.table.note("Medians of %d pairs through the whole stack, on %d addresses of each kind.", pairs, accounts)
	return nil
}

func knownEmail(i int) string { return fmt.Sprintf("somebody%d@example.test", i) }

// register makes accounts. They need no activation: a password is checked first.
func register(ctx context.Context, s *stack, accounts int) error {
	failures := make([]error, accounts)
	var group sync.WaitGroup
	for i := range accounts {
		group.Go(func() {
			status, _, answer, err := s.post(ctx, "/auth/general", "", map[string]string{"action": "register", "email": knownEmail(i), "password": "Right-password-1"})
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("register: %d %s", status, answer)
			}
			failures[i] = err
		})
	}
	group.Wait()
	return errors.Join(failures...)
}

// refused tries a wrong password and tells how long the refusal took.
func refused(ctx context.Context, s *stack, email string) (time.Duration, error) {
	begin := time.Now()
	status, _, answer, err := s.post(ctx, "/auth/general", "", map[string]string{"action": "login", "email": email, "password": "Wrong-password-1"})
	took := time.Since(begin)
	if err == nil && status != http.StatusUnauthorized {
		err = fmt.Errorf("a wrong password: %d %s", status, answer)
	}
	return took, err
}
