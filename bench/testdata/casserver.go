// Command cas, as the bench builds it: the routes of functions/cas by HTTPS, in place of Lambda (see privateca.go).
package main

import (
	"log"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"runtime"
	rtpprof "runtime/pprof"
	"strconv"
	"time"

	"cjj365.cc/bb/bench/tlsserver"
	"cjj365.cc/bb/shared/access"
	"cjj365.cc/bb/shared/gateway"
)

// profiles is a folder for CPU profiles of the function as Lambda runs it; the linker sets it. Without it this
// process keeps no profile of its memory, as the function does not.
var profiles string

// serve stands for gateway.Serve in functions/cas, by an overlay: the function's own routes behind TLS in one
// process, or by Lambda's Runtime API with a profile.
func serve(_ func(http.Handler), h http.Handler) {
	if profiles == "" {
		runtime.MemProfileRate = 0
	}
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") != "" {
		go profile()
		gateway.Serve(h)
		return
	}
	var list []access.Permission
	for _, text := range []string{"cas.write", "certs.write"} {
		p, err := access.ParsePermission(text)
		if err != nil {
			log.Fatal(err)
		}
		list = append(list, p)
	}
	permissions, err := access.Encode(list)
	if err != nil {
		log.Fatal(err)
	}
	wrapped, err := gateway.Wrap(h, "", slog.New(slog.NewJSONHandler(os.Stdout, nil)))
	if err != nil {
		log.Fatal(err)
	}
	caller := access.Caller{Kind: access.APIKey, User: 1, ID: 1, Name: "bench", Permissions: permissions, ExpiresAt: time.Now().Add(24 * time.Hour)}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/allocs", pprof.Handler("allocs").ServeHTTP)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		wrapped.ServeHTTP(w, r.WithContext(access.NewContext(r.Context(), caller)))
	})
	log.Fatal(tlsserver.Serve(mux))
}

// profile writes what some seconds of this process went to.
func profile() {
	time.Sleep(3 * time.Second)
	file, err := os.Create(filepath.Join(profiles, "lambda-"+strconv.Itoa(os.Getpid())+".cpu.pprof"))
	if err == nil {
		err = rtpprof.StartCPUProfile(file)
	}
	if err != nil {
		log.Fatal(err)
	}
	time.Sleep(20 * time.Second)
	rtpprof.StopCPUProfile()
	file.Close()
}
