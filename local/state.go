package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// What the state folder may hold.
const (
	lockName        = "lock"
	stackName       = "stack.json"
	permissionsName = "permissions.json"
	firstUserName   = "first-user.json"
	databaseName    = "dynamodb"
	databaseLogName = "dynamodb.log"
	mailName        = "mail"
	servicesName    = "ministack"
	servicesLogName = "ministack.log"
)

// A state is the state folder, locked by this process until release.
type state struct {
	folder string
	lock   *os.File
}

// A running is what stack.json says about the stack that runs.
type running struct {
	URL      string `json:"url"`
	Email    string `json:"email"`
	Password string `json:"password"`
	PID      int    `json:"pid"`
	// For whoever is on this machine, past the check of roles: Lambda's Invoke API, and MiniStack.
	Invoke   string `json:"invoke"`
	Services string `json:"services,omitempty"`

	FirstUser *seeded `json:"firstUser,omitempty"` // what the first user orders certificates with

	ACME *runningACME `json:"acme,omitempty"` // where nothing orders certificates there is none
	DNS  *runningDNS  `json:"dns,omitempty"`
}

func openState(folder string) (*state, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(folder, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the state folder: %w", err)
	}
	s := &state{folder: folder, lock: lock}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return s, nil
	}
	lock.Close()
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock the state folder: %w", err)
	}
	var other running
	if err := s.read(stackName, &other); err != nil {
		return nil, fmt.Errorf("a stack with the state folder %s is starting or stopping", folder)
	}
	return nil, fmt.Errorf("the stack is already running at %s (process %d)", other.URL, other.PID)
}

func (s *state) path(name string) string { return filepath.Join(s.folder, name) }

// release says that the stack no longer runs. The system would unlock the folder by itself.
func (s *state) release() {
	_ = os.Remove(s.path(stackName))
	_ = s.lock.Close()
}

func (s *state) read(name string, value any) error {
	data, err := os.ReadFile(s.path(name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, value); err != nil {
		return fmt.Errorf("read %s: %w", s.path(name), err)
	}
	return nil
}

// write replaces a file as a whole: who reads it never sees half.
func (s *state) write(name string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	unfinished := s.path(name + ".new")
	if err := os.WriteFile(unfinished, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(unfinished, s.path(name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// reset empties a state folder that holds nothing but what a stack keeps.
func reset(folder string) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	ours := map[string]bool{
		lockName: true, stackName: true, permissionsName: true, firstUserName: true, databaseName: true, databaseLogName: true, mailName: true,
		servicesName: true, servicesLogName: true, acmeName: true, acmeLogName: true,
		stackName + ".new": true, permissionsName + ".new": true, firstUserName + ".new": true,
	}
	for _, entry := range entries {
		if !ours[entry.Name()] {
			return fmt.Errorf("reset: %s does not look like a state folder, it holds %s; nothing was removed", folder, entry.Name())
		}
	}
	s, err := openState(folder)
	if err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	defer s.release()
	for _, entry := range entries {
		// The lock stays: removed, it would let a stack that starts now lock another file of that name.
		if entry.Name() == lockName {
			continue
		}
		if err := os.RemoveAll(s.path(entry.Name())); err != nil {
			return fmt.Errorf("reset: %w", err)
		}
	}
	return nil
}
