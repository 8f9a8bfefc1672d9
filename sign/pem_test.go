package sign_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"hpcimg/sign"
)

func TestPrivateKeyRoundTrip(t *testing.T) {
	for name, key := range dsseKeys(t) {
		for _, pass := range []string{"", "secret"} {
			if pass != "" && name != "ecdsa" {
				continue // scrypt is slow, and sees bytes
			}
			var b bytes.Buffer
			must(t, sign.WritePrivateKey(&b, key, []byte(pass)))
			if strings.Contains(b.String(), "ENCRYPTED SIGSTORE") != (pass != "") || !sign.IsPEM(b.Bytes()) {
				t.Errorf("%s: %s", name, b.String())
			}
			ask := func() ([]byte, error) { return []byte(pass), nil }
			back, err := sign.ReadPrivateKey(bytes.NewReader(b.Bytes()), ask)
			must(t, err)
			a, err := sign.PublicKeyID(key.Public())
			must(t, err)
			if b, err := sign.PublicKeyID(back.Public()); err != nil || a != b {
				t.Errorf("%s: %s, %s, %v", name, a, b, err)
			}
			if pass == "" {
				continue
			}
			for _, ask := range []func() ([]byte, error){nil, func() ([]byte, error) { return []byte("wrong"), nil }} {
				if _, err := sign.ReadPrivateKey(bytes.NewReader(b.Bytes()), ask); !errors.Is(err, sign.ErrPassphrase) {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

// TestCosignKey reads a key pair that cosign made.
func TestCosignKey(t *testing.T) {
	file, err := os.ReadFile("testdata/cosign.key")
	must(t, err)
	key, err := sign.ReadPrivateKey(bytes.NewReader(file), func() ([]byte, error) { return nil, nil })
	must(t, err)
	pub, err := os.Open("testdata/cosign.pub")
	must(t, err)
	defer pub.Close()
	public, err := sign.ReadPublicKeys(pub)
	must(t, err)
	sig, err := sign.SignMessage(key, []byte("message"))
	must(t, err)
	if !sign.VerifyMessage(public[0], []byte("message"), sig) || sign.VerifyMessage(public[0], []byte("massage"), sig) {
		t.Error("the halves do not belong together")
	}

	block, _ := pem.Decode(file)
	for name, change := range map[string]func(kdf, cipher map[string]any){
		"endless N":    func(kdf, _ map[string]any) { kdf["params"].(map[string]any)["N"] = 1 << 40 },
		"negative N":   func(kdf, _ map[string]any) { kdf["params"].(map[string]any)["N"] = -1 },
		"weak N":       func(kdf, _ map[string]any) { kdf["params"].(map[string]any)["N"] = 2 },
		"large r":      func(kdf, _ map[string]any) { kdf["params"].(map[string]any)["r"] = 1 << 20 },
		"no salt":      func(kdf, _ map[string]any) { kdf["salt"] = "" },
		"other kdf":    func(kdf, _ map[string]any) { kdf["name"] = "pbkdf2" },
		"short nonce":  func(_, cipher map[string]any) { cipher["nonce"] = "AAAA" },
		"other cipher": func(_, cipher map[string]any) { cipher["name"] = "none" },
	} {
		var m map[string]any
		must(t, json.Unmarshal(block.Bytes, &m))
		change(m["kdf"].(map[string]any), m["cipher"].(map[string]any))
		data, err := json.Marshal(m)
		must(t, err)
		p := pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: data})
		start := time.Now()
		_, err = sign.ReadPrivateKey(bytes.NewReader(p), func() ([]byte, error) { return nil, nil })
		if err == nil || time.Since(start) > time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(start))
		}
	}
}

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func (a *authority) issue(t testing.TB, change func(*x509.Certificate)) *authority {
	t.Helper()
	key := mustKey(t, sign.KeyECDSA)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: epoch(), NotAfter: epoch().AddDate(1, 0, 0),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	change(tmpl)
	parent, by := tmpl, key
	if a != nil {
		parent, by = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), by)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &authority{cert, key}
}

func isCA(c *x509.Certificate) {
	c.IsCA, c.KeyUsage, c.Subject.CommonName = true, x509.KeyUsageCertSign, "authority"
}

func pool(certs ...*authority) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c.cert)
	}
	return p
}

func TestCertificates(t *testing.T) {
	root := (*authority)(nil).issue(t, isCA)
	other := (*authority)(nil).issue(t, isCA)
	middle := root.issue(t, isCA)
	stale := root.issue(t, func(c *x509.Certificate) { isCA(c); c.NotAfter = epoch().AddDate(0, 0, 1) })
	good := func(*x509.Certificate) {}
	leaf := middle.issue(t, good)
	at := epoch().AddDate(0, 1, 0)
	tests := []struct {
		name string
		leaf *authority
		opts sign.VerifyOptions
		ok   bool
	}{
		{"good", leaf, sign.VerifyOptions{Roots: pool(root), Intermediates: pool(middle), Time: at}, true},
		{"straight from the root", root.issue(t, good), sign.VerifyOptions{Roots: pool(root), Time: at}, true},
		{"no roots", leaf, sign.VerifyOptions{Intermediates: pool(middle, root), Time: at}, false},
		{"another root", leaf, sign.VerifyOptions{Roots: pool(other), Intermediates: pool(middle, root), Time: at}, false},
		{"intermediate missing", leaf, sign.VerifyOptions{Roots: pool(root), Time: at}, false},
		{"not yet valid", leaf, sign.VerifyOptions{Roots: pool(root), Intermediates: pool(middle), Time: epoch().AddDate(0, 0, -1)}, false},
		{"expired", leaf, sign.VerifyOptions{Roots: pool(root), Intermediates: pool(middle), Time: epoch().AddDate(2, 0, 0)}, false},
		{"intermediate expired", stale.issue(t, good), sign.VerifyOptions{Roots: pool(root), Intermediates: pool(stale), Time: at}, false},
		{"for servers", middle.issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), sign.VerifyOptions{Roots: pool(root), Intermediates: pool(middle), Time: at}, false},
		{"not for signatures", middle.issue(t, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), sign.VerifyOptions{Roots: pool(root), Intermediates: pool(middle), Time: at}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := newImage(t)
			must(t, sign.SignDSSE(t.Context(), path, []crypto.Signer{tt.leaf.key}, nil))
			tt.opts.Certificates = []*x509.Certificate{tt.leaf.cert}
			result, err := sign.VerifyPath(t.Context(), path, &tt.opts)
			if !tt.ok {
				if e, is := errors.AsType[*sign.CertificateError](err); !is || e.Certificate != tt.leaf.cert {
					t.Errorf("%v", err)
				}
				return
			}
			must(t, err)
			if s := result.Signatures[0]; len(s.Certificates) != 1 || !s.Certificates[0].Equal(tt.leaf.cert) {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestWeakPublicKeys(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	var b bytes.Buffer
	must(t, sign.WritePublicKey(&b, weak.Public()))
	if _, err := sign.ReadPublicKeys(&b); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("RSA 1024: %v", err)
	}
	_, err = sign.VerifyPath(t.Context(), newImage(t), &sign.VerifyOptions{PublicKeys: []crypto.PublicKey{weak.Public()}})
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("verify: %v", err)
	}
	if sign.VerifyMessage(weak.Public(), nil, nil) || sign.VerifyMessage(&ecdsa.PublicKey{}, nil, nil) || sign.VerifyMessage(nil, nil, nil) {
		t.Error("verified")
	}
}

// FuzzReadPEM holds the readers to their word: what is read can be written and read again as the same key.
func FuzzReadPEM(f *testing.F) {
	for _, name := range []string{"testdata/cosign.key", "testdata/cosign.pub"} {
		data, err := os.ReadFile(name)
		must(f, err)
		f.Add(data)
	}
	var b bytes.Buffer
	must(f, sign.WritePrivateKey(&b, mustKey(f, sign.KeyEd25519), nil))
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		if key, err := sign.ReadPrivateKey(bytes.NewReader(data), nil); err == nil {
			var b bytes.Buffer
			must(t, sign.WritePrivateKey(&b, key, nil))
			back, err := sign.ReadPrivateKey(&b, nil)
			must(t, err)
			x, _ := sign.PublicKeyID(key.Public())
			if y, _ := sign.PublicKeyID(back.Public()); x != y {
				t.Error("another key")
			}
		}
		keys, err := sign.ReadPublicKeys(bytes.NewReader(data))
		if (err == nil) != (len(keys) > 0) {
			t.Errorf("%d keys, %v", len(keys), err)
		}
		_, _ = sign.ReadCertificates(bytes.NewReader(data))
	})
}
