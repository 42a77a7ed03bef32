package main

import (
	"encoding/pem"
	"fmt"

	"cjj365.cc/bb/shared/certificate/record"
)

// Certificate is a certificate as the API shows it.
type Certificate = record.Certificate

// state is what a caller who waits waits for a change of.
func state(c Certificate) string {
	s := c.Status + " " + c.Serial
	if c.Progress != nil {
		s += fmt.Sprint(" ", c.Progress.Attempt, c.Progress.Step, c.Progress.Tries)
	}
	return s
}

func pemOf(label string, der []byte) string {
	if len(der) == 0 {
		return ""
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
}
