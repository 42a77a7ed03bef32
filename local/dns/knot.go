package dns

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/miekg/dns"

	"cjj365.cc/bb/local/child"
)

// An Authority is a running Knot.
type Authority struct {
	Address string // host:port, UDP and TCP
	Key     TSIG

	process *child.Process
}

// A TSIG is the key (RFC 8945) that may change TXT records.
type TSIG struct {
	Name      string `json:"name"`
	Algorithm string `json:"algorithm"`
	Secret    string `json:"secret"` // base64
}

// holds tells whether a name is below Knot's zones. No Knot holds none.
func (a *Authority) holds(name string) bool {
	if a == nil {
		return false
	}
	for _, zone := range Zones {
		if dns.IsSubDomain(dns.Fqdn(zone), canonical(name)) {
			return true
		}
	}
	return false
}

// FindKnot finds knotd, or nothing where it is not installed. Debian has it in a folder that is in root's
// PATH only.
func FindKnot() string {
	for _, name := range []string{"knotd", "/usr/sbin/knotd", "/usr/local/sbin/knotd"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// startKnot yields nil without Knot.
func startKnot(ctx context.Context, o Options) (*Authority, error) {
	if o.Knot == "" {
		return nil, nil
	}
	key, err := keepKey(filepath.Join(o.Dir, "tsig.json"))
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(o.Dir, "knot")
	if err := writeKnot(dir, o.Ports.Knot, key); err != nil {
		return nil, fmt.Errorf("configure Knot: %w", err)
	}
	process, err := child.Start(child.Program{Path: o.Knot, Args: []string{"-c", filepath.Join(dir, "knot.conf")}, Log: o.Log})
	if err != nil {
		return nil, err
	}
	a := &Authority{Address: address(o.Ports.Knot), Key: key, process: process}
	for _, zone := range Zones {
		if err := process.Await(ctx, func(ctx context.Context) error { return a.serves(ctx, zone) }); err != nil {
			process.Stop()
			return nil, err
		}
	}
	return a, nil
}

// serves fails until a zone is loaded.
func (a *Authority) serves(ctx context.Context, zone string) error {
	// Over TCP a server that does not listen yet refuses; over UDP one would wait for it.
	answer, err := ask(ctx, "tcp", a.Address, dns.Fqdn(zone), dns.TypeSOA)
	if err != nil {
		return err
	}
	if answer.Rcode != dns.RcodeSuccess || len(answer.Answer) == 0 {
		return fmt.Errorf("zone %s: %s", zone, dns.RcodeToString[answer.Rcode])
	}
	return nil
}

// keepKey makes the key once.
func keepKey(file string) (TSIG, error) {
	var key TSIG
	text, err := os.ReadFile(file)
	if err == nil {
		if err := json.Unmarshal(text, &key); err != nil {
			return key, fmt.Errorf("read the TSIG key: %w", err)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return key, fmt.Errorf("read the TSIG key: %w", err)
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	key = TSIG{Name: "bb.", Algorithm: "hmac-sha256.", Secret: base64.StdEncoding.EncodeToString(secret)}
	if text, err = json.Marshal(key); err != nil {
		return key, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return key, fmt.Errorf("keep the TSIG key: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o600); err != nil {
		return key, fmt.Errorf("keep the TSIG key: %w", err)
	}
	return key, nil
}

// zoneFile is a zone at its first start. The challenge of "delegated" is answered in another zone.
const zoneFile = `$TTL 60
@ SOA ns1 hostmaster 1 60 60 3600 5
@ NS ns1
ns1 A 127.0.0.1
@ A 127.0.0.1
_acme-challenge.delegated CNAME delegated.acme.bb.test.
`

// controlLimit is what the address of a Unix socket may be long, on every system.
const controlLimit = 100

func writeKnot(dir string, port int, key TSIG) error {
	if err := os.MkdirAll(filepath.Join(dir, "db"), 0o700); err != nil {
		return err
	}
	control := filepath.Join(dir, "knot.sock")
	if len(control) > controlLimit {
		return fmt.Errorf("the path %s is too long for a socket; set BB_STATE to a shorter folder", control)
	}
	var c strings.Builder
	fmt.Fprintf(&c, `# Written at each start.
server:
    rundir: %[1]q
    listen: 127.0.0.1@%[2]d
    identity: ""
    version: ""
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
control:
    listen: %[3]q
log:
  - target: stderr
    any: warning
database:
    storage: %[4]q
    journal-db-max-size: 16M
key:
  - id: %[5]s
    algorithm: %[6]s
    secret: %[7]s
acl:
  - id: challenges
    key: %[5]s
    action: update
    update-type: TXT
template:
  - id: default
    storage: %[1]q
    file: "%%s.zone"
    acl: challenges
zone:
`, dir, port, control, filepath.Join(dir, "db"), strings.TrimSuffix(key.Name, "."), strings.TrimSuffix(key.Algorithm, "."), key.Secret)
	for _, zone := range Zones {
		fmt.Fprintf(&c, "  - domain: %s\n", zone)
		file := filepath.Join(dir, zone+".zone")
		if _, err := os.Stat(file); err == nil {
			continue // its records are kept
		}
		if err := os.WriteFile(file, []byte(zoneFile), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "knot.conf"), []byte(c.String()), 0o600)
}
