package e2e

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/google/uuid"
	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/nacl/box"
)

// agent is a device as the agents in the field are one: it keeps a key pair, tokens and a cursor, and knows nothing of
// the code here.
type agent struct {
	t               testing.TB
	publicID        string
	public, private *[32]byte
	id              int64
	access, refresh string
	cursor          string
}

func newAgent(t testing.TB) *agent {
	public, private, err := box.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &agent{t: t, publicID: uuid.NewString(), public: public, private: private}
}

// self is what it says of itself, with its proof.
func (a *agent) self(proof map[string]any) string {
	body := map[string]any{
		"device_public_id": a.publicID, "dev_pk": base64.StdEncoding.EncodeToString(a.public[:]), "platform": "linux", "model": "test",
		"app_version": "1.0", "name": "e2e", "ip": "unknown", "user_agent": "Boost.Beast/1",
	}
	for name, value := range proof {
		body[name] = value
	}
	text, _ := json.Marshal(body)
	return string(text)
}

// registered takes the answer to a registration.
func (a *agent) registered(r reply) {
	a.t.Helper()
	var data struct {
		Device struct {
			ID       int64
			PublicID string `json:"device_public_id"`
			Status   string
			User     int64 `json:"user_id"`
		}
		Session struct {
			Access  string `json:"access_token"`
			Refresh string `json:"refresh_token"`
			Type    string `json:"token_type"`
			Expires int    `json:"expires_in"`
		}
	}
	if err := json.Unmarshal(r.Data, &data); err != nil || r.Status != 200 || data.Device.ID == 0 || data.Device.PublicID != a.publicID || data.Device.Status != "ACTIVE" ||
		data.Session.Type != "Bearer" || data.Session.Expires != 3600 || !strings.HasPrefix(data.Session.Refresh, "rt_") {
		a.t.Fatalf("registration: %d %s", r.Status, r.Body)
	}
	a.id, a.access, a.refresh = data.Device.ID, data.Session.Access, data.Session.Refresh
	// What agents read of the token, without verifying it.
	claims := map[string]any{}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(a.access, ".")[1])
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims["sub"] != fmt.Sprint(data.Device.User) || claims["device_id"] != float64(a.id) || claims["exp"] == nil {
		a.t.Fatalf("claims %s, %v", payload, err)
	}
}

// ask asks as the device.
func (a *agent) ask(method, path, body string, headers ...string) reply {
	a.t.Helper()
	return shared.mustCall(a.t, method, "/apiv1/devices/self/"+path, body, append(headers, "Authorization: Bearer "+a.access)...)
}

// signal is one as it is on the wire.
type signal struct {
	Type string
	TS   int64 `json:"ts_ms"`
	Ref  map[string]any
}

// poll asks what is new, from the cursor on.
func (a *agent) poll(query string) []signal {
	a.t.Helper()
	var headers []string
	if a.cursor != "" {
		headers = append(headers, `If-None-Match: "`+a.cursor+`"`)
		query += "&cursor=" + a.cursor
	}
	r := a.ask("GET", "updates?limit=10"+query, "", headers...)
	if r.Header.Get("X-Poll-Interval") == "" || r.Header.Get("ETag") == "" {
		a.t.Fatalf("updates: %d %v", r.Status, r.Header)
	}
	a.cursor = strings.Trim(r.Header.Get("ETag"), `"`)
	if r.Status == http.StatusNoContent {
		if len(r.Body) > 0 {
			a.t.Errorf("204 with a body: %s", r.Body)
		}
		return nil
	}
	var data struct {
		Cursor  string
		Signals []signal
	}
	if err := json.Unmarshal(r.Data, &data); err != nil || r.Status != 200 || data.Cursor != a.cursor || len(data.Signals) == 0 {
		a.t.Fatalf("updates: %d %s", r.Status, r.Body)
	}
	return data.Signals
}

// types are the types of signals, in their order; their times must rise.
func (a *agent) types(signals []signal) (types []string) {
	a.t.Helper()
	last := int64(0)
	for _, s := range signals {
		if s.TS <= last {
			a.t.Errorf("times do not rise: %v", signals)
		}
		last, types = s.TS, append(types, s.Type)
	}
	return types
}

// install fetches a certificate, opens its key by libsodium's construction, and has openssl compare the two.
func (a *agent) install(id int64) (serial string) {
	a.t.Helper()
	r := a.ask("GET", fmt.Sprintf("certificates/%d", id), "")
	var record struct {
		Cert   string
		Serial string `json:"serial_number"`
		DER    string
	}
	if err := json.Unmarshal(r.Data, &record); err != nil || r.Status != 200 || record.Cert == "" || record.DER != "" {
		a.t.Fatalf("certificate: %d %s", r.Status, r.Body)
	}
	r = a.ask("GET", fmt.Sprintf("certificates/%d/deploy-materials", id), "")
	var m map[string]string
	if err := json.Unmarshal(r.Data, &m); err != nil || r.Status != 200 || m["enc_scheme"] != "aes256gcm" {
		a.t.Fatalf("deploy-materials: %d %s", r.Status, r.Body)
	}
	decode := func(name string, length int) []byte {
		b, err := base64.StdEncoding.DecodeString(m[name])
		if err != nil || length > 0 && len(b) != length {
			a.t.Fatalf("%s: %d bytes, %v", name, len(b), err)
		}
		return b
	}
	print := blake2b.Sum256(a.public[:])
	if !bytes.Equal(decode("device_keyfp_b64", 32), print[:]) {
		a.t.Error("the fingerprint is not the device's")
	}
	dataKey, ok := box.OpenAnonymous(nil, decode("enc_data_key_b64", 80), a.public, a.private)
	if !ok || len(dataKey) != 32 {
		a.t.Fatal("the sealed box does not open")
	}
	block, err := aes.NewCipher(dataKey)
	if err != nil {
		a.t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := aead.Open(nil, decode("privkey_nonce_b64", 12), slices.Concat(decode("enc_privkey_b64", 0), decode("privkey_tag_b64", 16)), nil)
	if err != nil {
		a.t.Fatalf("the private key does not open: %v", err)
	}
	dir := a.t.TempDir()
	key, leaf := filepath.Join(dir, "key.der"), filepath.Join(dir, "cert.pem")
	for file, text := range map[string][]byte{key: der, leaf: []byte(record.Cert)} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	ofKey, err := exec.Command("openssl", "pkey", "-inform", "DER", "-in", key, "-pubout").Output()
	if err != nil {
		a.t.Fatal(err)
	}
	ofLeaf, err := exec.Command("openssl", "x509", "-in", leaf, "-noout", "-pubkey").Output()
	if err != nil || !bytes.Equal(ofKey, ofLeaf) {
		a.t.Errorf("the key is not the certificate's: %s %s %v", ofKey, ofLeaf, err)
	}
	return record.Serial
}

// made posts something and reads the id of what was made.
func made(t testing.TB, path, body string, headers ...string) int64 {
	t.Helper()
	r := shared.mustCall(t, "POST", path, body, headers...)
	var data struct{ ID int64 }
	if err := json.Unmarshal(r.Data, &data); err != nil || r.Status/100 != 2 || data.ID == 0 {
		t.Fatalf("%s %s: %d %s", path, body, r.Status, r.Body)
	}
	return data.ID
}

func wants(t testing.TB, status int, r reply) reply {
	t.Helper()
	if r.Status != status {
		t.Fatalf("%d %s, want %d", r.Status, r.Body, status)
	}
	return r
}

// The worked sequences of the contract, §26, by a device that is no code of ours.
func TestADeviceFromFirstContactOn(t *testing.T) {
	owner := shared.login(t)
	errorsOf(t)
	a := newAgent(t)
	post := func(path, body string, headers ...string) reply {
		return shared.mustCall(t, "POST", path, body, headers...)
	}

	// First contact: started, polled at once, approved, polled again, registered.
	var started struct {
		DeviceCode string `json:"device_code"`
		UserCode   string `json:"user_code"`
		URL        string `json:"verification_uri"`
		Complete   string `json:"verification_uri_complete"`
		Interval   int
		Expires    int `json:"expires_in"`
	}
	r := wants(t, 200, post("/auth/device", `{"action":"device_start","scopes":["openid","profile","email"],"interval":5,"expires_in":900}`))
	if err := json.Unmarshal(r.Data, &started); err != nil || len(started.UserCode) != 9 || started.Interval != 5 || started.Expires != 900 || started.URL != shared.URL+"/device" || started.Complete != started.URL+"?user_code="+started.UserCode {
		t.Fatalf("start: %s", r.Body)
	}
	state := func() (status, code string, user json.Number) {
		t.Helper()
		var data struct {
			Status string
			Code   string      `json:"registration_code"`
			TTL    int         `json:"registration_code_ttl"`
			User   json.Number `json:"user_id"`
		}
		r := wants(t, 200, post("/auth/device", `{"action":"device_poll","device_code":"`+started.DeviceCode+`"}`))
		if err := json.Unmarshal(r.Data, &data); err != nil || data.Status == "ready" && data.TTL <= 0 {
			t.Fatalf("poll: %s", r.Body)
		}
		return data.Status, data.Code, data.User
	}
	if status, _, _ := state(); status != "authorization_pending" {
		t.Fatalf("at once: %s", status)
	}
	if status, _, _ := state(); status != "slow_down" {
		t.Fatalf("too soon: %s", status)
	}
	wants(t, 401, post("/auth/device", `{"action":"device_verify","user_code":"`+started.UserCode+`"}`))
	wants(t, 200, post("/auth/device", `{"action":"device_verify","user_code":"`+strings.ToLower(started.UserCode)+`"}`, owner))
	status, code, user := state()
	if status != "ready" || code == "" || user != "1" {
		t.Fatalf("approved: %s %s %s", status, code, user)
	}
	proof := map[string]any{"user_id": 1, "registration_code": code}
	a.registered(post("/apiv1/device/registration", a.self(proof)))
	first := a.id
	a.registered(post("/apiv1/device/registration", a.self(proof))) // the answer was lost
	if a.id != first {
		t.Fatalf("registered twice: %d and %d", first, a.id)
	}
	wants(t, 400, post("/apiv1/device/registration", newAgent(t).self(proof))) // another device, the same code
	if status, _, _ := state(); status != "expired" {
		t.Errorf("used: %s", status)
	}
	wants(t, 204, a.ask("POST", "notify", `{"schema":"certctrl.device.notify.v1","events":[{"type":"agent_version","agent":"cert-ctrl","version":"v1.4.2-3-gabc"},{"type":"other","x":[1]}]}`))
	if got := a.poll(""); got != nil || a.cursor != "0-0" {
		t.Fatalf("nothing has happened: %v, cursor %s", got, a.cursor)
	}

	// A private certificate to it.
	const u = "/apiv1/users/1/"
	device := fmt.Sprintf("%sdevices/%d/", u, a.id)
	ca := made(t, u+"cas", `{"name":"dev ca","algorithm":"ECDSA","key_size":256,"curve_name":"prime256v1","valid_days":3650,"max_path_length":0}`, owner)
	account := made(t, u+"acme-accounts", fmt.Sprintf(`{"name":"devices","email":"d@example.org","provider":"letsencrypt","ca_id":%d}`, ca), owner)
	id := made(t, u+"certificates", fmt.Sprintf(`{"domain_name":"svc.example.org","sans":[],"acct_id":%d,"action":"create"}`, account), owner)
	issued := fmt.Sprintf("%scertificates/%d/issues", u, id)
	wants(t, 200, post(issued, `{}`, owner))
	wants(t, 204, post(device+"cas", fmt.Sprintf(`{"ca_id":%d}`, ca), owner))
	wants(t, 204, post(device+"certificates", fmt.Sprintf(`{"cert_id":%d}`, id), owner))
	wants(t, 204, post(device+"certificates", fmt.Sprintf(`{"cert_id":"%d"}`, id), owner)) // again: nothing happens
	config := fmt.Sprintf(`{"installs":[{"id":"a","type":"copy","ob_type":"cert","ob_id":%d,"from":["private.key","fullchain.pem"],"to":["/etc/k","/etc/c"]},{"id":"b","type":"exec","depends_on":["a"],"cmd":"systemctl reload x"}],"after_update_script":"echo\r\n done "}`, id)
	r = wants(t, 200, shared.mustCall(t, "PUT", device+"install-config", config, owner))
	wants(t, 200, shared.mustCall(t, "PUT", device+"install-config", config, owner)) // unchanged: no version, no signal
	signals := a.poll("")
	if got := a.types(signals); !slices.Equal(got, []string{"ca.assigned", "cert.updated", "install.updated"}) {
		t.Fatalf("signals %v", signals)
	}
	var own, seen struct {
		Version int64
		Hash    string           `json:"installs_hash"`
		JSON    string           `json:"installs_json"`
		Script  string           `json:"after_update_script"`
		Items   []map[string]any `json:"installs"`
	}
	if err := json.Unmarshal(r.Data, &seen); err != nil {
		t.Fatal(err)
	}
	r = wants(t, 200, a.ask("GET", "install-config", ""))
	if err := json.Unmarshal(r.Data, &own); err != nil || own.Version != 1 || own.Hash != seen.Hash || own.Hash != signals[2].Ref["installs_hash_b64"] || signals[2].Ref["version"] != 1.0 || own.Script != "echo\r\n done " || own.Items[1]["ob_id"] != 0.0 {
		t.Errorf("install config %s, signal %v", r.Body, signals[2])
	}
	if ref := signals[1].Ref; ref["wrap_ready"] != true || ref["cert_id"] != float64(id) {
		t.Errorf("cert.updated %v", ref)
	}
	before := a.install(id)
	var trusted struct {
		PEM string `json:"ca_certificate_pem"`
	}
	r = wants(t, 200, a.ask("GET", fmt.Sprintf("cas/%d/bundle?pack=download", ca), ""))
	if err := json.Unmarshal(r.Data, &trusted); err != nil || !strings.HasPrefix(trusted.PEM, "-----BEGIN") || !strings.Contains(r.Header.Get("Content-Disposition"), "attachment") {
		t.Errorf("CA bundle %s", r.Body)
	}
	wants(t, 204, a.ask("POST", "notify", fmt.Sprintf(`{"events":[{"type":"cert.installed","cert_id":%d}]}`, id)))
	var detail struct {
		Agent        string `json:"agent_version"`
		Count        int    `json:"cert_count"`
		Certificates []struct {
			State    string
			UpToDate bool `json:"up_to_date"`
		}
	}
	r = wants(t, 200, shared.mustCall(t, "GET", strings.TrimSuffix(device, "/"), "", owner))
	if err := json.Unmarshal(r.Data, &detail); err != nil || detail.Agent != "v1.4.2-3-gabc" || detail.Count != 1 || len(detail.Certificates) != 1 || detail.Certificates[0].State != "INSTALLED" {
		t.Errorf("device %s", r.Body)
	}

	// Renewal: another serial number, key and data key.
	wants(t, 200, post(issued, `{}`, owner))
	if got := a.types(a.poll("&wait=20")); !slices.Equal(got, []string{"cert.updated"}) {
		t.Fatalf("after the renewal: %v", got)
	}
	if after := a.install(id); after == before {
		t.Error("the renewed certificate is the same")
	}

	// Token life: refreshed, the answer lost, refreshed again with the same token.
	lost := a.refresh
	a.renew(lost)
	a.renew(lost)
	a.poll("")
	spent := a.refresh
	a.renew(spent)
	a.renew(a.refresh)
	if r := post("/auth/refresh", `{"refresh_token":"`+spent+`"}`); r.Status != 401 || r.Error.Code != 10003 || r.Error.Key != "refresh_token_rotated" {
		t.Errorf("a spent token: %d %s", r.Status, r.Body)
	}

	// Cursors: of the future, and none at all.
	kept := a.cursor
	if r := a.ask("GET", "updates?cursor=99999999999999-0", ""); r.Status != 409 || r.Error.Code != 40901 || r.Error.Params["action"] != "full_resync" {
		t.Errorf("a cursor of the future: %d %s", r.Status, r.Body)
	}
	a.cursor = ""
	if got := a.poll(""); len(got) != 4 || a.cursor != kept {
		t.Errorf("from the start: %v, cursor %s", got, a.cursor)
	}
	wants(t, 400, a.ask("GET", "updates?cursor=x", ""))

	// Restoring makes a version with the old content.
	wants(t, 200, shared.mustCall(t, "PUT", device+"install-config", `{"installs":[]}`, owner))
	wants(t, 404, post(device+"install-config/restore", `{"version":9}`, owner))
	r = wants(t, 200, post(device+"install-config/restore", `{"version":1,"change_note":"back"}`, owner))
	if err := json.Unmarshal(r.Data, &own); err != nil || own.Version != 3 || own.Hash != seen.Hash {
		t.Errorf("restored: %s", r.Body)
	}
	wants(t, 409, shared.mustCall(t, "PUT", device+"install-config", `{"installs":[],"expected_version":1}`, owner))
	r = wants(t, 200, shared.mustCall(t, "GET", device+"install-config-histories?limit=2", "", owner))
	if !strings.Contains(string(r.Body), `"change_note":"back"`) || !strings.Contains(string(r.Body), `"total":3`) {
		t.Errorf("history: %s", r.Body)
	}
	a.poll("")

	// Unassigned.
	wants(t, 204, shared.mustCall(t, "DELETE", fmt.Sprintf("%scertificates/%d", device, id), "", owner))
	wants(t, 404, shared.mustCall(t, "DELETE", fmt.Sprintf("%scertificates/%d", device, id), "", owner))
	if got := a.types(a.poll("")); !slices.Equal(got, []string{"cert.unassigned"}) {
		t.Fatalf("after the unassignment: %v", got)
	}
	wants(t, 404, a.ask("GET", fmt.Sprintf("certificates/%d", id), ""))
	wants(t, 404, a.ask("GET", fmt.Sprintf("certificates/%d/deploy-materials", id), ""))

	// What is deleted is taken off.
	wants(t, 204, post(device+"certificates", fmt.Sprintf(`{"cert_id":%d}`, id), owner))
	wants(t, 204, shared.mustCall(t, "DELETE", fmt.Sprintf("%scertificates/%d", u, id), "", owner))
	wants(t, 204, shared.mustCall(t, "DELETE", fmt.Sprintf("%scas/%d?force=true", u, ca), "", owner))
	if got := a.types(a.poll("")); !slices.Equal(got, []string{"cert.updated", "cert.unassigned", "ca.unassigned"}) {
		t.Fatalf("after the deletions: %v", got)
	}

	// Revoked: nothing that it holds is good for anything.
	wants(t, 204, shared.mustCall(t, "DELETE", strings.TrimSuffix(device, "/"), "", owner))
	if r := a.ask("GET", "updates", ""); r.Status != 403 || r.Error.Code != 5022 {
		t.Errorf("a revoked device: %d %s", r.Status, r.Body)
	}
	wants(t, 401, post("/auth/refresh", `{"refresh_token":"`+a.refresh+`"}`))
}

// renew refreshes the session, and reads both forms of the answer.
func (a *agent) renew(token string) {
	a.t.Helper()
	r := wants(a.t, 200, shared.mustCall(a.t, "POST", "/auth/refresh", `{"refresh_token":"`+token+`"}`))
	type pair struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		Expires int    `json:"expires_in"`
	}
	var data struct {
		pair
		Session pair
	}
	if err := json.Unmarshal(r.Data, &data); err != nil || data.Session.Access == "" || data.Session.Refresh == token {
		a.t.Fatalf("refresh: %s", r.Body)
	}
	a.access, a.refresh = data.Session.Access, data.Session.Refresh
}

// errorsOf prints what the functions log as an error, if the test fails.
func errorsOf(t *testing.T) {
	from := len(shared.logs.String())
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for line := range strings.Lines(shared.logs.String()[from:]) {
			if strings.Contains(line, `"ERROR"`) {
				t.Log(line)
			}
		}
	})
}

// What few devices do, and attackers: each needs something of a role that nobody else does.
func TestADeviceThatIsLockedAndAKeyThatIsPlain(t *testing.T) {
	owner := shared.login(t)
	errorsOf(t)
	a := shared.devices(t, 1, owner)[0].agent
	post := func(path, body string, headers ...string) reply {
		return shared.mustCall(t, "POST", path, body, headers...)
	}
	const u = "/apiv1/users/1/"
	device := fmt.Sprintf("%sdevices/%d", u, a.id)

	// From a private CA to the device in one request, with a key that the server gives out.
	ca := made(t, u+"cas", `{"name":"plain"}`, owner)
	id := made(t, fmt.Sprintf("%scas/%d/issue", u, ca), fmt.Sprintf(`{"domain_name":"plain.example","device_id":%d,"key_dist_policy":"MASTER_ONLY"}`, a.id), owner)
	if got := a.types(a.poll("")); !slices.Equal(got, []string{"cert.updated"}) {
		t.Fatalf("signals %v", got)
	}
	var m map[string]string
	r := wants(t, 200, a.ask("GET", fmt.Sprintf("certificates/%d/bundle?pack=download", id), ""))
	if err := json.Unmarshal(r.Data, &m); err != nil || m["enc_scheme"] != "plaintext" || m["private_key_der_b64"] == "" || !strings.Contains(r.Header.Get("Content-Disposition"), "plaintext") {
		t.Errorf("plain: %s", r.Body)
	}
	wants(t, 200, shared.mustCall(t, "PUT", fmt.Sprintf("%scertificates/%d", u, id), `{"key_dist_policy":"hybrid"}`, owner))
	if got := a.types(a.poll("")); !slices.Equal(got, []string{"cert.updated"}) {
		t.Fatalf("after the flip: %v", got)
	}
	a.install(id)
	wants(t, 404, post(fmt.Sprintf("%scas/%d/issue", u, ca), `{"domain_name":"plain.example","device_id":999999}`, owner))

	// A poll that names a device of nobody.
	var started struct {
		DeviceCode string `json:"device_code"`
		UserCode   string `json:"user_code"`
	}
	if err := json.Unmarshal(wants(t, 200, post("/auth/device", `{"action":"device_start"}`)).Data, &started); err != nil {
		t.Fatal(err)
	}
	wants(t, 200, post("/auth/device", `{"action":"device_verify","user_code":"`+started.UserCode+`"}`, owner))
	wants(t, 403, post("/auth/device", fmt.Sprintf(`{"action":"device_poll","device_code":"%s","device_id":"999999"}`, started.DeviceCode)))
	wants(t, 200, post("/auth/device", fmt.Sprintf(`{"action":"device_poll","device_code":"%s","device_id":%d}`, started.DeviceCode, a.id)))

	// A refresh token that was spent more than two minutes ago was stolen: the line is locked, wherever it is shown.
	for _, show := range []func(spent string) reply{
		func(spent string) reply { return post("/auth/refresh", `{"refresh_token":"`+spent+`"}`) },
		func(spent string) reply {
			return post("/apiv1/device/registration", a.self(map[string]any{"user_id": 1, "refresh_token": spent}))
		},
	} {
		a.registered(post(u+"devices", a.self(nil), owner))
		spent := a.refresh
		a.renew(spent)
		a.renew(a.refresh)
		shared.backdate(t, a.id)
		if r := show(spent); r.Status != 401 || r.Error.Code != 10003 {
			t.Errorf("a stolen token: %d %s", r.Status, r.Body)
		}
		if r := post("/auth/refresh", `{"refresh_token":"`+a.refresh+`"}`); r.Status != 401 || !strings.Contains(r.Error.What, "family revoked") {
			t.Errorf("the line lives: %d %s", r.Status, r.Body)
		}
	}
	wants(t, 204, shared.mustCall(t, "DELETE", device, "", owner))
}

// backdate has a device's refresh tokens spent an hour earlier.
func (s *stack) backdate(t *testing.T, device int64) {
	t.Helper()
	db, resources := s.database(t)
	table := strings.Replace(resources, "ResourceTable", "CredentialTable", 1)
	for i := range 2 {
		_, err := db.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
			TableName: &table, Key: map[string]types.AttributeValue{
				"pk": &types.AttributeValueMemberS{Value: fmt.Sprintf("DEVICE#%d", device)}, "sk": &types.AttributeValueMemberS{Value: "FAMILY"},
			},
			UpdateExpression: aws.String(fmt.Sprintf("SET spent[%d].#at = spent[%d].#at - :hour", i, i)), ExpressionAttributeNames: map[string]string{"#at": "at"},
			ExpressionAttributeValues: map[string]types.AttributeValue{":hour": &types.AttributeValueMemberN{Value: "3600000"}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
