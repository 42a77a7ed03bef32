package lambda

import (
	"bytes"
	"io"
	"sync"
)

// lines serialises the output of many processes, a line at a time.
type lines struct {
	mu sync.Mutex
	to io.Writer
}

// A prefixed writer puts a function's name before each of its lines.
type prefixed struct {
	lines  *lines
	prefix string
	rest   []byte // a line that has not ended yet
}

func (l *lines) prefixed(name string) *prefixed { return &prefixed{lines: l, prefix: name + " | "} }

func (w *prefixed) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		end := bytes.IndexByte(w.rest, '\n')
		if end < 0 {
			return len(b), nil
		}
		if err := w.emit(w.rest[:end+1]); err != nil {
			return 0, err
		}
		w.rest = append(w.rest[:0], w.rest[end+1:]...)
	}
}

// flush writes what the process left without a line's end.
func (w *prefixed) flush() {
	if len(w.rest) > 0 {
		_ = w.emit(append(w.rest, '\n'))
		w.rest = nil
	}
}

func (w *prefixed) emit(line []byte) error {
	if w.lines.to == nil {
		return nil
	}
	w.lines.mu.Lock()
	defer w.lines.mu.Unlock()
	_, err := w.lines.to.Write(append([]byte(w.prefix), line...))
	return err
}
