package awsenv_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"cjj365.cc/bb/shared/awsenv"
)

// closing is the body of a request of the SDK, which is closed when the answer begins.
type closing struct{ io.Reader }

func (closing) Close() error                     { return nil }
func (closing) WriteTo(io.Writer) (int64, error) { return 0, io.EOF }

func TestAnAnswerIsReadToItsEnd(t *testing.T) {
	for name, value := range map[string]string{"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"} {
		t.Setenv(name, value)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil {
			w.Write(body)
		}
	}))
	defer server.Close()
	configuration, err := awsenv.Config()
	if err != nil {
		t.Fatal(err)
	}
	sent := strings.Repeat("x", 1<<16)
	request, err := http.NewRequestWithContext(t.Context(), "POST", server.URL, closing{strings.NewReader(sent)})
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = int64(len(sent))
	response, err := configuration.HTTPClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got, err := io.ReadAll(response.Body); err != nil || string(got) != sent {
		t.Errorf("%d bytes of %d: %v", len(got), len(sent), err)
	}
}
