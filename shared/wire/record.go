package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/problem"
)

// record is what the one log line of a request says.
type record struct {
	route string
	err   error
}

type recordKey struct{}

func note(ctx context.Context, err error) {
	if r, ok := ctx.Value(recordKey{}).(*record); ok {
		r.err = err
	}
}

func noteRoute(ctx context.Context, route string) {
	if r, ok := ctx.Value(recordKey{}).(*record); ok {
		r.route = route
	}
}

// Record writes one log line for each request that next answers: id, route, principal, status and
// milliseconds, and the whole of an internal error. It answers a panic like an internal error.
func Record(next http.Handler, log *slog.Logger, requestID func(context.Context) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &record{}
		r = r.WithContext(context.WithValue(r.Context(), recordKey{}, rec))
		status := &statusWriter{ResponseWriter: w}
		func() {
			defer func() {
				if v := recover(); v != nil {
					err := fmt.Errorf("panic: %v\n%s", v, debug.Stack())
					rec.err = err
					if status.status == 0 {
						Fail(status, r, err)
					}
				}
			}()
			next.ServeHTTP(status, r)
		}()
		attributes := []slog.Attr{
			slog.String("request", requestID(r.Context())), slog.String("method", r.Method), slog.String("route", rec.route),
			slog.Int("status", status.status), slog.Float64("ms", float64(time.Since(start).Microseconds())/1000),
		}
		if c, ok := access.FromContext(r.Context()); ok {
			attributes = append(attributes, slog.String("principal", c.Principal()))
		}
		level := slog.LevelInfo
		if rec.err != nil {
			attributes = append(attributes, slog.String("error", rec.err.Error()))
			var p *problem.Error
			if !errors.As(rec.err, &p) || p.Status >= 500 {
				level = slog.LevelError
			}
		}
		log.LogAttrs(r.Context(), level, "request", attributes...)
	})
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}
