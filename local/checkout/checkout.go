// Package checkout finds the working tree that this program is run in.
package checkout

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Root is the nearest folder, from the working directory upwards, that has a go.mod.
func Root() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder, nil
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			return "", errors.New("find the checkout: neither this folder nor one above has a go.mod")
		}
		folder = parent
	}
}
