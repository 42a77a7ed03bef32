package pki

import (
	"bytes"
	"encoding/pem"
	"errors"
	"slices"
)

var begin = []byte("-----BEGIN ")

func isPEM(text []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(text), begin) }

var errPEM = errors.New("not PEM of the expected kind, or more than that")

// readPEM reads the blocks of a text that holds nothing else. encoding/pem alone passes over what it cannot
// read, so that two readers could find different blocks in one text.
func readPEM(text []byte, limit int, labels ...string) ([][]byte, error) {
	var blocks [][]byte
	for text = bytes.TrimSpace(text); len(text) > 0; text = bytes.TrimSpace(text) {
		if len(blocks) == limit || !bytes.HasPrefix(text, begin) {
			return nil, errPEM
		}
		block, rest := pem.Decode(text)
		if block == nil || len(block.Headers) > 0 || !slices.Contains(labels, block.Type) ||
			bytes.Count(text[:len(text)-len(rest)], begin) != 1 {
			return nil, errPEM
		}
		blocks, text = append(blocks, block.Bytes), rest
	}
	if len(blocks) == 0 {
		return nil, errPEM
	}
	return blocks, nil
}
