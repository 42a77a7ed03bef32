package device

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"
)

// Plan is how a renewed certificate goes to its devices. The zero Plan is to all at once.
type Plan struct {
	Percent  int           // of the devices that have it first; 0 and 100 are all
	Wait     time.Duration // before the rest has it
	Failures int           // percent of the first that may report a failure; beyond, the rest keep what they have
}

// Staged tells whether not all have it at once.
func (p Plan) Staged() bool { return p.Percent > 0 && p.Percent < 100 }

// Rollout is a certificate's change on its way to its devices. It is written in the transaction that changes the
// certificate, and lies there until every device has been told, and has what it is to have or has had its time: a
// process that dies on the way leaves it to the next. Each device is told in a transaction of its own, with the change
// of what it is to have, so that none is told twice of the same.
type Rollout struct {
	User        int64
	Certificate int64 // 0 for a CA's
	CA          int64
	Issue       int64 // that the devices are to have
	Revision    int64 // of the certificate, with the change
	Again       bool  // who has the issue already is told again: what changed is how its key is given out
	Gone        bool  // the certificate or CA is deleted: nobody has it any more
	Name        string
	Serial      string // of a CA that is gone
	Plan        Plan
	StartedAt   time.Time
	FirstAt     time.Time // when the first had been told, of a staged one
	AllAt       time.Time // when all had been told
	StoppedAt   time.Time // too many of the first have failed
	NextAt      time.Time // when it is looked at again; zero for never
}

// Overdue is how long a device has for installing what it was told of before its owner is.
const Overdue = 24 * time.Hour

// Stage is where a roll-out stands.
type Stage string

// The stages.
const (
	First   Stage = "FIRST" // the first devices have it; the rest wait
	All     Stage = "ALL"   // all have been told
	Stopped Stage = "STOPPED"
	Telling Stage = "TELLING"
)

// Stage derives it.
func (r Rollout) Stage() Stage {
	switch {
	case !r.StoppedAt.IsZero():
		return Stopped
	case !r.AllAt.IsZero():
		return All
	case !r.FirstAt.IsZero():
		return First
	}
	return Telling
}

// Behind are the assignments that are to have the issue and do not yet, in an order that is the same whoever asks: of a
// certificate's issues not always the same devices are the first.
func (r Rollout) Behind(all []Assignment) []Assignment {
	var behind []Assignment
	for _, a := range all {
		if a.Issue < r.Issue {
			behind = append(behind, a)
		}
	}
	order := func(a Assignment) uint64 {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:8], uint64(a.Device))
		binary.BigEndian.PutUint64(b[8:], uint64(r.Issue))
		digest := sha256.Sum256(b[:])
		return binary.BigEndian.Uint64(digest[:8])
	}
	slices.SortFunc(behind, func(a, b Assignment) int { return cmp.Compare(order(a), order(b)) })
	return behind
}

// Next are the assignments to be told now.
func (r Rollout) Next(all []Assignment, now time.Time) []Assignment {
	var next []Assignment
	if r.Again {
		for _, a := range all {
			if a.Issue == r.Issue && a.Revision < r.Revision {
				next = append(next, a)
			}
		}
	}
	// What a device has nothing of, it has at once.
	bare, behind := split(r.Behind(all))
	next = append(next, bare...)
	switch {
	case !r.StoppedAt.IsZero():
	case !r.Plan.Staged(), !r.FirstAt.IsZero() && !now.Before(r.FirstAt.Add(r.Plan.Wait)):
		next = append(next, behind...)
	case r.FirstAt.IsZero():
		first, told := (len(all)*r.Plan.Percent+99)/100, len(all)-len(behind)-len(bare)
		next = append(next, behind[:min(len(behind), max(first-told, 0))]...)
	}
	return next
}

// split parts those that have had no issue from the others.
func split(all []Assignment) (bare, others []Assignment) {
	for _, a := range all {
		if a.Issue == 0 {
			bare = append(bare, a)
		} else {
			others = append(others, a)
		}
	}
	return bare, others
}

// Failing tells whether too many of those who have the issue report that they could not install it.
func (r Rollout) Failing(all []Assignment) bool {
	if !r.Plan.Staged() {
		return false
	}
	have, failed := 0, 0
	for _, a := range all {
		if a.Issue == r.Issue {
			have++
			if a.State() == Failed {
				failed++
			}
		}
	}
	return failed > 0 && failed*100 > have*r.Plan.Failures
}

// Settled tells whether every device has what it is to have.
func Settled(all []Assignment) bool {
	return !slices.ContainsFunc(all, func(a Assignment) bool { return !a.Done() })
}
