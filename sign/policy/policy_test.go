package policy_test

import (
	"context"
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcimg/sif"
	"hpcimg/sign"
	"hpcimg/sign/policy"
)

// TestModes has every mode decide about every kind of image.
func TestModes(t *testing.T) {
	a, b, stranger := newKey(t, "A"), newKey(t, "B"), newKey(t, "stranger")
	pem, err := sign.GeneratePrivateKey(sign.KeyEd25519)
	must(t, err)
	pemID, err := sign.PublicKeyID(pem.Public())
	must(t, err)
	dsse := newImage(t)
	must(t, sign.SignDSSE(t.Context(), dsse, []crypto.Signer{pem}, nil))
	primary := newImage(t)
	must(t, sign.Sign(t.Context(), primary, a, &sign.Options{Objects: []uint32{3}}))
	raw := filepath.Join(t.TempDir(), "raw.sqfs")
	must(t, os.WriteFile(raw, []byte("hsqs and so on"), 0o600))
	images := map[string]string{
		"unsigned": newImage(t), "A": signedBy(t, newImage(t), a), "A and B": signedBy(t, newImage(t), a, b),
		"stranger": signedBy(t, newImage(t), stranger), "A and stranger": signedBy(t, newImage(t), a, stranger),
		"changed": edit(t, signedBy(t, newImage(t), a), flip(imageOffset)), "dsse": dsse, "primary": primary,
		"squashfs": raw, "directory": t.TempDir(),
	}
	const allow, warn, deny = "allow", "warn", "deny"
	tests := []struct {
		rule policy.Rule
		want map[string]string // what is not here is denied
	}{
		{policy.Rule{}, map[string]string{
			"unsigned": warn, "A": allow, "A and B": allow, "stranger": allow, "A and stranger": allow, "changed": allow, "dsse": allow,
			"primary": allow, "squashfs": warn, "directory": warn,
		}},
		{policy.Rule{Unsigned: policy.ActionDeny}, map[string]string{
			"A": allow, "A and B": allow, "stranger": allow, "A and stranger": allow, "changed": allow, "dsse": allow, "primary": allow,
		}},
		{policy.Rule{Mode: policy.ModeDeny}, nil},
		{policy.Rule{Mode: policy.ModeSigned}, map[string]string{"A": allow, "A and B": allow, "A and stranger": allow, "dsse": allow}},
		{policy.Rule{Mode: policy.ModeSigned, Unsigned: policy.ActionWarn}, map[string]string{
			"unsigned": warn, "A": allow, "A and B": allow, "stranger": warn, "A and stranger": allow, "dsse": allow, "squashfs": warn, "directory": warn,
		}},
		{policy.Rule{Mode: policy.ModeSigned, PrimaryOnly: true}, map[string]string{
			"A": allow, "A and B": allow, "A and stranger": allow, "dsse": allow, "primary": allow,
		}},
		{policy.Rule{Mode: policy.ModeWhitelist, Signers: []string{fp(a)}}, map[string]string{"A": allow, "A and B": allow, "A and stranger": allow}},
		{policy.Rule{Mode: policy.ModeWhitelist, Signers: []string{fp(b), strings.ToLower(fp(a))}}, map[string]string{
			"A": allow, "A and B": allow, "A and stranger": allow,
		}},
		{policy.Rule{Mode: policy.ModeWhitelist, Signers: []string{pemID}}, map[string]string{"dsse": allow}},
		{policy.Rule{Mode: policy.ModeWhitelist, Signers: []string{fp(stranger)}}, nil}, // on the list, but there is no key
		{policy.Rule{Mode: policy.ModeStrict, Signers: []string{fp(a), fp(b)}}, map[string]string{"A and B": allow}},
		{policy.Rule{Mode: policy.ModeStrict, Signers: []string{fp(a)}, PrimaryOnly: true}, map[string]string{
			"A": allow, "A and B": allow, "A and stranger": allow, "primary": allow,
		}},
		{policy.Rule{Mode: policy.ModeBlacklist, Signers: []string{fp(b), fp(stranger)}}, map[string]string{"A": allow, "dsse": allow}},
		{policy.Rule{Mode: policy.ModeBlacklist, Signers: []string{fp(b)}, Unsigned: policy.ActionWarn}, map[string]string{
			"unsigned": warn, "A": allow, "stranger": warn, "A and stranger": allow, "dsse": allow, "squashfs": warn, "directory": warn,
		}},
		{policy.Rule{Mode: policy.ModeBlacklist, Signers: []string{pemID}}, map[string]string{"A": allow, "A and B": allow, "A and stranger": allow}},
	}
	for _, tt := range tests {
		p := newPolicy(t, policy.Config{Default: tt.rule, Keyring: sign.NewKeyring(a, b), PublicKeys: []crypto.PublicKey{pem.Public()}})
		for name, path := range images {
			d, err := checkPath(t, p, path)
			got := allow
			switch {
			case errors.Is(err, policy.ErrDenied):
				got = deny
			case err != nil:
				t.Errorf("%+v: %s: %v", tt.rule, name, err)
			case d.Warning != nil:
				got = warn
			}
			want := tt.want[name]
			if want == "" {
				want = deny
			}
			if got != want {
				t.Errorf("%+v: %s: %s (%v), want %s", tt.rule, name, got, err, want)
			}
		}
	}
}

func TestPartThatWasVerified(t *testing.T) {
	a := newKey(t, "A")
	path := signedBy(t, newImage(t), a)
	p := newPolicy(t, policy.Config{Default: policy.Rule{Mode: policy.ModeSigned}, Keyring: sign.NewKeyring(a)})
	for _, part := range [][2]int64{{0, 0}, {imageOffset, imageSize - 1}, {imageOffset + 1, imageSize - 1}, {imageOffset, imageSize + 1}, {imageOffset, 0}} {
		if _, err := checkPart(t, p, path, part[0], part[1]); !errors.Is(err, policy.ErrDenied) {
			t.Errorf("%v: %v", part, err)
		}
	}
	_, err := checkPart(t, p, path, imageOffset, imageSize)
	must(t, err)
}

func TestWritable(t *testing.T) {
	a := newKey(t, "A")
	path := signedBy(t, newImage(t), a)
	for _, mode := range []os.FileMode{0o775, 0o757, 0o777} {
		must(t, os.Chmod(path, mode))
		for _, allowed := range []bool{false, true} {
			p := newPolicy(t, policy.Config{Default: policy.Rule{Mode: policy.ModeSigned, AllowWritable: allowed}, Keyring: sign.NewKeyring(a)})
			if _, err := checkPath(t, p, path); (err == nil) != allowed {
				t.Errorf("%#o, allowed %v: %v", mode, allowed, err)
			}
		}
	}
}

// TestForPath compares by components, after links are resolved.
func TestForPath(t *testing.T) {
	p := newPolicy(t, policy.Config{Rules: []policy.Rule{
		{Name: "exact", Directories: []string{"/apps/exact"}},
		{Name: "apps", Paths: []string{"/apps", "/opt/images"}},
		{Name: "repo", Repositories: []string{"registry.example/apps", "docker.io"}},
	}})
	for path, want := range map[string]string{
		"/apps/a.sif": "apps", "/apps/x/y/a.sif": "apps", "/apps2/a.sif": "default rule", "/apps": "apps", "/app": "default rule",
		"/apps/exact/a.sif": "exact", "/apps/exact/b/a.sif": "apps", "/apps/exact2/a.sif": "apps", "/opt/images/a": "apps", "/opt/a": "default rule",
	} {
		if got := p.ForPath(path).Name; got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	for repo, want := range map[string]string{
		"registry.example/apps": "repo", "registry.example/apps/x": "repo", "registry.example/apps2": "default rule", "docker.io/library/debian": "repo",
		"docker.io.evil.example/x": "default rule", "registry.example": "default rule",
	} {
		if got := p.ForRepository(repo).Name; got != want {
			t.Errorf("%s: %s, want %s", repo, got, want)
		}
	}
	a := newKey(t, "A")
	path := newImage(t)
	real, err := filepath.EvalSymlinks(filepath.Dir(path))
	must(t, err)
	link := filepath.Join(t.TempDir(), "link.sif")
	must(t, os.Symlink(path, link))
	p = newPolicy(t, policy.Config{Rules: []policy.Rule{{Paths: []string{real}, Mode: policy.ModeSigned}}, Keyring: sign.NewKeyring(a)})
	if _, err := checkPath(t, p, link); !errors.Is(err, policy.ErrDenied) {
		t.Errorf("through a link: %v", err)
	}
}

func TestCheckManifest(t *testing.T) {
	good, err := sign.GeneratePrivateKey(sign.KeyECDSA)
	must(t, err)
	other, err := sign.GeneratePrivateKey(sign.KeyECDSA)
	must(t, err)
	id, err := sign.PublicKeyID(good.Public())
	must(t, err)
	by := func(keys ...crypto.PublicKey) func(context.Context, []crypto.PublicKey) ([]crypto.PublicKey, error) {
		return func(context.Context, []crypto.PublicKey) ([]crypto.PublicKey, error) { return keys, nil }
	}
	p := newPolicy(t, policy.Config{PublicKeys: []crypto.PublicKey{good.Public(), other.Public()}, Rules: []policy.Rule{
		{Repositories: []string{"r.example/apps"}, Mode: policy.ModeWhitelist, Signers: []string{id}},
		{Repositories: []string{"r.example/any"}, Mode: policy.ModeSigned, Unsigned: policy.ActionWarn},
		{Repositories: []string{"r.example/evil"}, Mode: policy.ModeDeny},
	}})
	for _, tt := range []struct {
		repo       string
		by         []crypto.PublicKey
		deny, warn bool
	}{
		{"r.example/apps/x", []crypto.PublicKey{good.Public()}, false, false},
		{"r.example/apps/x", []crypto.PublicKey{good.Public(), other.Public()}, false, false},
		{"r.example/apps/x", []crypto.PublicKey{other.Public()}, true, false},
		{"r.example/apps/x", nil, true, false},
		{"r.example/any/x", []crypto.PublicKey{other.Public()}, false, false},
		{"r.example/any/x", nil, false, true},
		{"r.example/evil/x", []crypto.PublicKey{good.Public()}, true, false},
		{"docker.io/library/x", nil, false, false},
	} {
		d, err := p.CheckManifest(t.Context(), policy.Manifest{Repository: tt.repo, Verify: by(tt.by...)})
		if errors.Is(err, policy.ErrDenied) != tt.deny || err == nil && (d.Warning != nil) != tt.warn {
			t.Errorf("%s by %d: %v, %+v", tt.repo, len(tt.by), err, d)
		}
	}
	broken := errors.New("registry is away")
	_, err = p.CheckManifest(t.Context(), policy.Manifest{Repository: "r.example/any/x", Verify: func(context.Context, []crypto.PublicKey) ([]crypto.PublicKey, error) { return nil, broken }})
	if !errors.Is(err, broken) || !errors.Is(err, policy.ErrDenied) {
		t.Errorf("registry away: %v", err)
	}
}

// TestOCISIF signs layers in an OCI-SIF, which are no partitions.
func TestOCISIF(t *testing.T) {
	a := newKey(t, "A")
	path := filepath.Join(t.TempDir(), "image.oci.sif")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o755)
	must(t, err)
	defer f.Close()
	must(t, f.Chmod(0o755))
	w, err := sif.NewOCIWriter(f, &sif.OCIWriterOptions{Blobs: 2})
	must(t, err)
	for _, blob := range []string{"hsqs and so on", "config"} {
		_, err = w.AddBlob(strings.NewReader(blob))
		must(t, err)
	}
	_, err = w.Close(strings.NewReader("{}"))
	must(t, err)
	p := newPolicy(t, policy.Config{Default: policy.Rule{Mode: policy.ModeSigned, PrimaryOnly: true}, Keyring: sign.NewKeyring(a)})
	if _, err := checkPart(t, p, path, 0, -1); !errors.Is(err, policy.ErrDenied) {
		t.Errorf("unsigned: %v", err)
	}
	signedBy(t, path, a)
	s, err := sif.Open(path)
	must(t, err)
	defer s.Close()
	blob := s.Objects()[0]
	_, err = checkPart(t, p, path, blob.Offset, blob.Size)
	must(t, err)
	_, err = checkPart(t, p, path, 0, -1)
	must(t, err)
	if _, err := checkPart(t, p, path, blob.Offset, blob.Size+1); !errors.Is(err, policy.ErrDenied) {
		t.Errorf("more than the blob: %v", err)
	}
	must(t, sif.AddObject(t.Context(), path, &sif.NewObject{Type: sif.DataGeneric, Group: 1, Name: "evil", Data: strings.NewReader("evil")}, nil))
	if _, err := checkPart(t, p, path, 0, -1); !errors.Is(err, policy.ErrDenied) {
		t.Errorf("object added: %v", err)
	}
}
