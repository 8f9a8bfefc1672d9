package sign_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
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

func TestKeyDir(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	d, err := sign.OpenKeyDir(path)
	must(t, err)
	secret, public := generate(t, sign.KeyOptions{Name: "S", Passphrase: []byte("x")}), generate(t, sign.KeyOptions{Name: "P"}).Public()
	must(t, d.Add(t.Context(), secret, public))
	for name, mode := range map[string]fs.FileMode{"": fs.ModeDir | 0o700, "pgp-public": 0o600, "pgp-secret": 0o600} {
		if info, err := os.Stat(filepath.Join(path, name)); err != nil || info.Mode() != mode {
			t.Errorf("%q: %v %v", name, info.Mode(), err)
		}
	}
	if k, err := d.Find(secret.Fingerprint()); err != nil || !k.HasSecret() || !k.Protected() {
		t.Errorf("secret key: %v", err)
	}
	if k, err := d.Find(public.Fingerprint()); err != nil || k.HasSecret() {
		t.Errorf("public key: %v", err)
	}
	// What is stored are plain binary key rings, which other tools read.
	data, err := os.ReadFile(filepath.Join(path, "pgp-public"))
	must(t, err)
	if list, err := openpgp.ReadKeyRing(bytes.NewReader(data)); err != nil || len(list) != 2 {
		t.Errorf("pgp-public: %d keys, %v", len(list), err)
	}
	must(t, d.Remove(t.Context(), secret.Fingerprint()))
	if _, err := d.Find(secret.Fingerprint()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed key: %v", err)
	}
	if err := d.Remove(t.Context(), secret.Fingerprint()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
	must(t, d.Remove(t.Context(), public.Fingerprint()))
	if ring, err := d.Public(); err != nil || len(ring.Keys()) != 0 {
		t.Errorf("empty ring: %v", err)
	}
}

func TestKeyDirConcurrent(t *testing.T) {
	path := t.TempDir()
	var keys []*sign.Key
	for i := range 8 {
		keys = append(keys, generate(t, sign.KeyOptions{Name: fmt.Sprint("K", i)}))
	}
	var wg sync.WaitGroup
	for _, k := range keys {
		wg.Go(func() {
			d, err := sign.OpenKeyDir(path)
			if err == nil {
				err = d.Add(t.Context(), k)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	d, err := sign.OpenKeyDir(path)
	must(t, err)
	ring, err := d.Secret()
	if err != nil || len(ring.Keys()) != len(keys) {
		t.Fatalf("%d of %d keys survived: %v", len(ring.Keys()), len(keys), err)
	}
}

func TestKeyDirHostile(t *testing.T) {
	k := generate(t, sign.KeyOptions{})
	var secret bytes.Buffer
	must(t, k.ExportSecret(&secret, false))
	tests := []struct {
		name  string
		plant func(t *testing.T, path string)
		is    error
	}{
		{"symlink", func(t *testing.T, path string) {
			target := filepath.Join(t.TempDir(), "target")
			must(t, os.WriteFile(target, secret.Bytes(), 0o600))
			must(t, os.Symlink(target, path))
		}, nil},
		{"dangling symlink", func(t *testing.T, path string) { must(t, os.Symlink(filepath.Join(t.TempDir(), "none"), path)) }, nil},
		{"FIFO", func(t *testing.T, path string) { must(t, syscall.Mkfifo(path, 0o600)) }, nil},
		{"directory", func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, nil},
		{"readable by others", func(t *testing.T, path string) {
			must(t, os.WriteFile(path, secret.Bytes(), 0o600))
			must(t, os.Chmod(path, 0o644))
		}, fs.ErrPermission},
		{"garbage", func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte("garbage"), 0o600)) }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			d, err := sign.OpenKeyDir(dir)
			must(t, err)
			tt.plant(t, filepath.Join(dir, "pgp-secret"))
			if _, err := d.Secret(); err == nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("read: %v", err)
			}
			if err := d.Add(t.Context(), k); err == nil {
				t.Error("added a key to it")
			}
			if _, err := os.Lstat(filepath.Join(dir, "pgp-public")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the other ring was written: %v", err)
			}
		})
	}
	open := t.TempDir()
	must(t, os.Chmod(open, 0o777))
	if _, err := sign.OpenKeyDir(open); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(open); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory mode %v", info.Mode())
	}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := sign.OpenKeyDir(file); err == nil {
		t.Error("took a file as key directory")
	}
}

func TestKeyDirLockEnds(t *testing.T) {
	dir := t.TempDir()
	d, err := sign.OpenKeyDir(dir)
	must(t, err)
	holder, err := os.Open(dir)
	must(t, err)
	defer holder.Close()
	must(t, syscall.Flock(int(holder.Fd()), syscall.LOCK_EX))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := d.Add(ctx, generate(t, sign.KeyOptions{})); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("add to a locked directory: %v", err)
	}
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	slices.Sort(list)
	return list
}
