package gateway_test

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
)

// BenchmarkEcho measures requests from a number of clients, each with its own connection, to the
// test function: through the authorizer and without it.
func BenchmarkEcho(b *testing.B) {
	s := serve(b, nil)
	for _, path := range []string{"/get/x", "/users/7"} {
		for _, clients := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("%s/%d", path[1:4], clients), func(b *testing.B) {
				transport := &http.Transport{MaxIdleConnsPerHost: clients}
				defer transport.CloseIdleConnections()
				work := make(chan struct{}, clients)
				var wg sync.WaitGroup
				for range clients {
					wg.Go(func() {
						for range work {
							get(b, transport, s.URL+path)
						}
					})
				}
				b.ResetTimer()
				for range b.N {
					work <- struct{}{}
				}
				close(work)
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
			})
		}
	}
}

func get(b *testing.B, transport *http.Transport, url string) {
	request, _ := http.NewRequest("GET", url, nil)
	response, err := transport.RoundTrip(request)
	if err != nil {
		b.Error(err)
		return
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != 200 {
		b.Error(response.Status, err)
	}
}
