package sign_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"hpcimg/sign"
)

func epoch() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func generate(t testing.TB, opts sign.KeyOptions) *sign.Key {
	t.Helper()
	if opts.Name == "" {
		opts.Name, opts.Email = "Test", "test@example.org"
	}
	k, err := sign.GenerateKey(&opts)
	must(t, err)
	return k
}

// foreign makes a key that GenerateKey would not make.
func foreign(t testing.TB, config *packet.Config) *sign.Key {
	t.Helper()
	e, err := openpgp.NewEntity("Foreign", "", "f@example.org", config)
	must(t, err)
	var b bytes.Buffer
	must(t, e.SerializePrivate(&b, nil))
	ring, err := sign.ReadKeyring(&b)
	must(t, err)
	return ring.Keys()[0]
}

func TestGenerateKey(t *testing.T) {
	k := generate(t, sign.KeyOptions{Name: "A B", Comment: "c", Email: "a@example.org", Time: epoch()})
	if got := k.Identities(); len(got) != 1 || got[0] != "A B (c) <a@example.org>" {
		t.Errorf("identities %q", got)
	}
	if k.Algorithm() != "EdDSA" || !k.Created().Equal(epoch()) || !k.HasSecret() || k.Protected() || len(k.Fingerprint()) != 40 || k.CanSign() != nil {
		t.Errorf("key %+v", k)
	}
	if rsa := generate(t, sign.KeyOptions{Algorithm: sign.RSA, Bits: 3072}); rsa.Algorithm() != "RSA 3072" || rsa.CanSign() != nil {
		t.Errorf("RSA key %v", rsa)
	}
	for name, opts := range map[string]*sign.KeyOptions{
		"nobody": nil, "short": {Name: "x", Algorithm: sign.RSA, Bits: 2048}, "huge": {Name: "x", Algorithm: sign.RSA, Bits: 1 << 20},
		"bits": {Name: "x", Bits: 4096}, "algorithm": {Name: "x", Algorithm: 9},
	} {
		if _, err := sign.GenerateKey(opts); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefusedKeys(t *testing.T) {
	keys := map[string]*sign.Key{
		"version 6":    foreign(t, &packet.Config{V6Keys: true, Algorithm: packet.PubKeyAlgoEd25519}),
		"algorithm 27": foreign(t, &packet.Config{Algorithm: packet.PubKeyAlgoEd25519}),
		"short RSA":    openCorpus(t).key(t),
	}
	path := copyImage(t, "one-group")
	before, err := os.ReadFile(path)
	must(t, err)
	for name, k := range keys {
		err := sign.Sign(t.Context(), path, k, nil)
		e, ok := errors.AsType[*sign.KeyError](err)
		if !ok || !errors.Is(err, errors.ErrUnsupported) || e.Fingerprint != k.Fingerprint() {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := sign.Sign(t.Context(), path, generate(t, sign.KeyOptions{}).Public(), nil); err == nil || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("public key: %v", err)
	}
	if err := sign.Sign(t.Context(), path, nil, nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("no key: %v", err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed: %v", err)
	}
}

func TestKeyringRoundTrip(t *testing.T) {
	a := generate(t, sign.KeyOptions{Name: "A"})
	b := generate(t, sign.KeyOptions{Name: "B", Passphrase: []byte("secret")})
	for _, armored := range []bool{false, true} {
		var public, secret bytes.Buffer
		for _, k := range []*sign.Key{a, b} {
			must(t, k.ExportPublic(&public, armored))
			must(t, k.ExportSecret(&secret, armored))
		}
		for name, data := range map[string]*bytes.Buffer{"public": &public, "secret": &secret} {
			ring, err := sign.ReadKeyring(data)
			must(t, err)
			got := ring.Keys()
			if len(got) != 2 || got[0].Fingerprint() != a.Fingerprint() || got[1].Fingerprint() != b.Fingerprint() {
				t.Fatalf("%s %v: %v", name, armored, got)
			}
			if got[0].HasSecret() != (name == "secret") || got[1].Protected() != (name == "secret") {
				t.Errorf("%s %v: secret %v, protected %v", name, armored, got[0].HasSecret(), got[1].Protected())
			}
		}
	}
	ring := sign.NewKeyring(a).With(a.Public(), b)
	if k, err := ring.Find(a.Fingerprint()); err != nil || !k.HasSecret() || len(ring.Keys()) != 2 {
		t.Errorf("secret half lost: %v", err)
	}
	if _, err := ring.Without(a.Fingerprint()).Find(a.Fingerprint()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed key: %v", err)
	}
	if err := a.Public().ExportSecret(&bytes.Buffer{}, true); err == nil {
		t.Error("exported a secret that is not there")
	}
}

func TestReadKeyringErrors(t *testing.T) {
	for _, data := range []string{"", "garbage", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n"} {
		if _, err := sign.ReadKeyring(strings.NewReader(data)); err == nil && data != "" {
			t.Errorf("took %q", data)
		}
	}
	if _, err := sign.ReadKeyring(zeros{}); !errors.Is(err, sign.ErrLimit) {
		t.Errorf("endless key ring: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestParseFingerprint(t *testing.T) {
	const full = "12045C8C0B1004D058DE4BEDA20C27EE7FF7BA84"
	for _, s := range []string{full, "0x" + strings.ToLower(full), "1204 5C8C 0B10 04D0 58DE  4BED A20C 27EE 7FF7 BA84"} {
		if fp, err := sign.ParseFingerprint(s); err != nil || fp != full {
			t.Errorf("%q: %q, %v", s, fp, err)
		}
	}
	for _, s := range []string{"", "A20C27EE7FF7BA84", full[1:], full + "Z", full + "00"} {
		if _, err := sign.ParseFingerprint(s); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
}
