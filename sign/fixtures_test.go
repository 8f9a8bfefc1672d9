package sign_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/sylabs/sif/v2/pkg/integrity"
	sylabs "github.com/sylabs/sif/v2/pkg/sif"

	"hpcimg/internal/oracle"
	"hpcimg/sif"
	"hpcimg/sign"
)

// corpus is the test directory of sylabs/sif, which comes with the module.
type corpus struct{ dir string }

func openCorpus(t testing.TB) corpus {
	t.Helper()
	out, err := exec.Command(oracle.Tool(t, "go"), "list", "-m", "-f", "{{.Dir}}", "github.com/sylabs/sif/v2").Output()
	must(t, err)
	return corpus{filepath.Join(strings.TrimSpace(string(out)), "test")}
}

func (c corpus) image(name string) string { return filepath.Join(c.dir, "images", name+".sif") }

func (c corpus) key(t testing.TB) *sign.Key {
	t.Helper()
	f, err := os.Open(filepath.Join(c.dir, "keys", "private.asc"))
	must(t, err)
	defer f.Close()
	ring, err := sign.ReadKeyring(f)
	must(t, err)
	k, err := ring.Find("12045C8C0B1004D058DE4BEDA20C27EE7FF7BA84")
	must(t, err)
	return k
}

func (c corpus) public(t testing.TB, name string) crypto.PublicKey {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.dir, "keys", name+"-public.pem"))
	must(t, err)
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	must(t, err)
	return key
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// readOnly lets sylabs/sif have a file without the means to change it.
type readOnly struct{ io.ReaderAt }

func (readOnly) Write([]byte) (int, error)      { return 0, errors.ErrUnsupported }
func (readOnly) Seek(int64, int) (int64, error) { return 0, errors.ErrUnsupported }
func (readOnly) Truncate(int64) error           { return errors.ErrUnsupported }

// integrityVerify is the verdict of sylabs/sif.
func integrityVerify(t testing.TB, f *sif.File, ring *sign.Keyring, opts ...integrity.VerifierOpt) error {
	t.Helper()
	img, err := sylabs.LoadContainer(readOnly{f}, sylabs.OptLoadWithCloseOnUnload(false))
	if err != nil {
		return err
	}
	var list openpgp.EntityList
	for _, k := range ring.Keys() {
		var b strings.Builder
		must(t, k.ExportPublic(&b, false))
		l, err := openpgp.ReadKeyRing(strings.NewReader(b.String()))
		must(t, err)
		list = append(list, l...)
	}
	v, err := integrity.NewVerifier(img, append([]integrity.VerifierOpt{integrity.OptVerifyWithKeyRing(list)}, opts...)...)
	if err != nil {
		return err
	}
	return v.Verify()
}

// TestFixtures checks the matrix of verdicts, and that sylabs/sif agrees where it has the same question.
func TestFixtures(t *testing.T) {
	c := openCorpus(t)
	ring := sign.NewKeyring(c.key(t).Public())
	keys := []crypto.PublicKey{c.public(t, "ed25519"), c.public(t, "rsa"), c.public(t, "ecdsa")}
	const ok, unsigned, untrusted, bad = "", "unsigned", "untrusted", "bad"
	tests := []struct {
		name                      string
		modern, legacy, uncovered string // default; Legacy; Legacy and AllowUncovered
	}{
		{"one-group", unsigned, unsigned, unsigned},
		{"two-groups", unsigned, unsigned, unsigned},
		{"one-group-signed-pgp", ok, ok, ok},
		{"two-groups-signed-pgp", ok, ok, ok},
		{"one-group-signed-dsse", ok, ok, ok},
		{"two-groups-signed-dsse", ok, ok, ok},
		{"one-group-signed-legacy", bad, bad, ok},
		{"two-groups-signed-legacy", bad, bad, ok},
		{"one-group-signed-legacy-group", bad, ok, ok},
		{"two-groups-signed-legacy-group", bad, bad, ok},
		{"one-group-signed-legacy-all", bad, ok, ok},
		{"two-groups-signed-legacy-all", bad, bad, ok},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := sif.Open(c.image(tt.name))
			must(t, err)
			defer f.Close()
			check := func(label, want string, opts *sign.VerifyOptions) {
				t.Helper()
				opts.Keyring, opts.PublicKeys = ring, keys
				result, err := sign.Verify(t.Context(), f, opts)
				if got := verdict(err); got != want {
					t.Errorf("%s: %q (%v), want %q", label, got, err, want)
				}
				if result == nil {
					t.Fatalf("%s: no result", label)
				}
			}
			check("default", tt.modern, &sign.VerifyOptions{})
			check("legacy", tt.legacy, &sign.VerifyOptions{Legacy: true})
			check("uncovered", tt.uncovered, &sign.VerifyOptions{Legacy: true, AllowUncovered: true})
			if !strings.Contains(tt.name, "dsse") {
				if theirs := integrityVerify(t, f, ring); (theirs == nil) != (tt.modern == ok) {
					t.Errorf("sylabs/sif says %v", theirs)
				}
			}
			if tt.modern == ok {
				result, err := sign.Verify(t.Context(), f, nil)
				if !errors.Is(err, sign.ErrUntrusted) || result.Signatures[0].Trusted || len(result.Signatures[0].Covers) != 0 {
					t.Errorf("without keys: %v", err)
				}
			}
		})
	}
}

func verdict(err error) string {
	switch {
	case err == nil:
		return ""
	case err == sign.ErrUnsigned:
		return "unsigned"
	case err == sign.ErrUntrusted:
		return "untrusted"
	}
	if _, ok := errors.AsType[*sign.VerifyError](err); ok {
		return "bad"
	}
	return "other"
}

func TestResult(t *testing.T) {
	c := openCorpus(t)
	result, err := sign.VerifyPath(context.Background(), c.image("two-groups-signed-pgp"), &sign.VerifyOptions{Keyring: sign.NewKeyring(c.key(t))})
	must(t, err)
	if len(result.Signatures) != 2 || len(result.Objects) != 3 {
		t.Fatalf("%d signatures, %d objects", len(result.Signatures), len(result.Objects))
	}
	for _, s := range result.Signatures {
		if !s.Trusted || s.Err != nil || s.Signer.Fingerprint() != s.Claimed || s.Signer.HasSecret() || s.Format != sign.FormatPGP || len(s.Covers) == 0 {
			t.Errorf("signature %+v", s)
		}
	}
	for _, o := range result.Objects {
		if !o.Covered() || len(o.Signatures) != 1 {
			t.Errorf("object %d: %v", o.ID, o.Signatures)
		}
	}
}
