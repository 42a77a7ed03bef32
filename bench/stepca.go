package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"cjj365.cc/bb/local/child"
)

const stepVersion = "v0.30.2"

// buildStepCA builds step-ca where it is missing, and gives its path.
func buildStepCA(ctx context.Context, b *bench) (string, error) {
	folder := filepath.Join(b.root, ".tools", "step-ca", stepVersion)
	file := filepath.Join(folder, "step-ca")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	fmt.Fprintln(os.Stderr, "building step-ca", stepVersion)
	command := exec.CommandContext(ctx, "go", "install", "-trimpath", "github.com/smallstep/certificates/cmd/step-ca@"+stepVersion)
	command.Dir = b.work // go.mod of the checkout has no say in it
	command.Env = append(os.Environ(), "GOBIN="+folder, "CGO_ENABLED=0", "GOFLAGS=")
	if output, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %.300s", err, output)
	}
	return file, nil
}

// stepProvisioner is who makes one-time tokens.
const stepProvisioner = "bench"

// A stepCA is step-ca with a root, a CA below it that issues, and a JWK provisioner, all P-256 and ES256.
type stepCA struct {
	url     string
	root    []byte // PEM
	tokens  jose.Signer
	command *exec.Cmd
}

// startStepCA starts step-ca with its files in a folder of data, and waits until it answers.
func startStepCA(ctx context.Context, program, data string) (*stepCA, error) {
	s := &stepCA{}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	root := smallAuthority("Step Root", 1)
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, smallAuthority("Step CA", 2), root, key.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	tokenKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	public := jose.JSONWebKey{Key: tokenKey.Public(), KeyID: "bench", Algorithm: string(jose.ES256), Use: "sig"}
	s.tokens, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: tokenKey, KeyID: public.KeyID}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, err
	}
	port, err := child.FreePort()
	if err != nil {
		return nil, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	s.url, s.root = "https://"+address, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER})
	// As step ca init writes it, with its logs.
	configuration, err := json.Marshal(map[string]any{
		"root": filepath.Join(data, "root.crt"), "crt": filepath.Join(data, "ca.crt"), "key": filepath.Join(data, "ca.key"),
		"address": address, "dnsNames": []string{"127.0.0.1"}, "logger": map[string]string{"format": "text"},
		"db":        map[string]string{"type": "badgerv2", "dataSource": filepath.Join(data, "db")},
		"authority": map[string]any{"provisioners": []any{map[string]any{"type": "JWK", "name": stepProvisioner, "key": public}}},
	})
	if err != nil {
		return nil, err
	}
	for name, text := range map[string][]byte{
		"root.crt": s.root, "ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"ca.key": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), "ca.json": configuration,
	} {
		if err := os.WriteFile(filepath.Join(data, name), text, 0o600); err != nil {
			return nil, err
		}
	}
	output, err := os.Create(filepath.Join(data, "output"))
	if err != nil {
		return nil, err
	}
	defer output.Close() // step-ca has it open by itself
	s.command = exec.CommandContext(ctx, program, filepath.Join(data, "ca.json"))
	s.command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + data, "STEPPATH=" + data}
	s.command.Stdout, s.command.Stderr = output, output
	if err := s.command.Start(); err != nil {
		return nil, err
	}
	if err := s.await(ctx, output.Name()); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func smallAuthority(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func (s *stepCA) await(ctx context.Context, output string) error {
	client := trusting(s.root)
	defer client.CloseIdleConnections()
	for begin := time.Now(); time.Since(begin) < patience && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		if response, err := client.Get(s.url + "/health"); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
	said, _ := os.ReadFile(output)
	return errors.Join(ctx.Err(), fmt.Errorf("step-ca did not start: %s", said))
}

// token is a one-time token for a name.
func (s *stepCA) token(name string) (string, error) {
	now := time.Now()
	return jwt.Signed(s.tokens).Claims(jwt.Claims{
		Issuer: stepProvisioner, Subject: name, Audience: jwt.Audience{s.url + "/1.0/sign"}, ID: rand.Text(),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(5 * time.Minute)),
	}).Claims(map[string]any{"sans": []string{name}}).Serialize()
}

func (s *stepCA) stop() {
	_ = s.command.Process.Kill() // it may have ended by itself
	_ = s.command.Wait()
}

// serverCertificate makes a P-256 certificate for 127.0.0.1 in files, and the root it hangs on in PEM.
func serverCertificate(folder string) (certificate, key string, root []byte, err error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", nil, err
	}
	top := smallAuthority("Bench Root", 1)
	rootDER, err := x509.CreateCertificate(rand.Reader, top, top, rootKey.Public(), rootKey)
	if err != nil {
		return "", "", nil, err
	}
	leaf := smallAuthority("127.0.0.1", 2)
	leaf.IsCA, leaf.KeyUsage, leaf.IPAddresses = false, x509.KeyUsageDigitalSignature, []net.IP{net.IPv4(127, 0, 0, 1)}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", nil, err
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, top, leafKey.Public(), rootKey)
	if err != nil {
		return "", "", nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(leafKey)
	if err != nil {
		return "", "", nil, err
	}
	certificate, key = filepath.Join(folder, "server.crt"), filepath.Join(folder, "server.key")
	err = errors.Join(
		os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600),
	)
	return certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rootDER}), err
}
