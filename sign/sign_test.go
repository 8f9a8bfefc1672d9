package sign_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/clearsign"

	"hpcimg/internal/oracle"
	"hpcimg/sif"
	"hpcimg/sign"
)

func copyImage(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(openCorpus(t).image(name))
	must(t, err)
	path := filepath.Join(t.TempDir(), "image.sif")
	must(t, os.WriteFile(path, data, 0o755))
	return path
}

// newImage writes an image of one group: definition, JSON, partition.
func newImage(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.sif")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o755)
	must(t, err)
	defer f.Close()
	w, err := sif.NewWriter(f, &sif.WriterOptions{Arch: "amd64"})
	must(t, err)
	must(t, w.AddDefinition([]byte("bootstrap: docker\nfrom: debian\n")))
	must(t, w.AddJSON(sif.NameOCIConfig, []byte(`{"Cmd":["sh"]}`)))
	offset, err := w.BeginPartition()
	must(t, err)
	partition := bytes.Repeat([]byte("hsqs"), 1024)
	_, err = f.WriteAt(partition, offset)
	must(t, err)
	must(t, w.EndPartition(int64(len(partition))))
	_, err = w.Close()
	must(t, err)
	return path
}

func trust(keys ...*sign.Key) *sign.VerifyOptions {
	return &sign.VerifyOptions{Keyring: sign.NewKeyring(keys...)}
}

func TestSign(t *testing.T) {
	keys := map[string]*sign.Key{
		"EdDSA":     generate(t, sign.KeyOptions{}),
		"RSA":       generate(t, sign.KeyOptions{Algorithm: sign.RSA, Bits: 3072}),
		"protected": generate(t, sign.KeyOptions{Passphrase: []byte("open sesame")}),
	}
	for name, k := range keys {
		for _, image := range []string{"new", "one-group", "two-groups", "one-group-signed-pgp", "one-object-time"} {
			t.Run(name+"/"+image, func(t *testing.T) {
				path := newImage(t)
				if image != "new" {
					path = copyImage(t, image)
				}
				opts := &sign.Options{Replace: true, Passphrase: func(*sign.Key) ([]byte, error) { return []byte("open sesame"), nil }}
				must(t, sign.Sign(t.Context(), path, k, opts))
				if _, err := sign.VerifyPath(t.Context(), path, trust(k.Public())); err != nil {
					t.Fatal(err)
				}
				f, err := sif.Open(path)
				must(t, err)
				defer f.Close()
				if err := integrityVerify(t, f, sign.NewKeyring(k.Public())); err != nil {
					t.Errorf("sylabs/sif says %v", err)
				}
				if info, err := os.Stat(path); err != nil || info.Mode() != 0o755 {
					t.Errorf("mode %v", info.Mode())
				}
				if got := names(t, filepath.Dir(path)); len(got) != 1 {
					t.Errorf("left behind: %v", got)
				}
				other := generate(t, sign.KeyOptions{})
				if _, err := sign.VerifyPath(t.Context(), path, trust(other)); !errors.Is(err, sign.ErrUntrusted) {
					t.Errorf("other key: %v", err)
				}
				narrowed := trust(k, other)
				narrowed.Signers = []sign.Fingerprint{other.Fingerprint()}
				if _, err := sign.VerifyPath(t.Context(), path, narrowed); !errors.Is(err, sign.ErrUntrusted) {
					t.Errorf("key that is not listed: %v", err)
				}
			})
		}
	}
}

func TestSignReproducible(t *testing.T) {
	k := generate(t, sign.KeyOptions{Time: epoch()})
	var images [][]byte
	for range 2 {
		path := newImage(t)
		must(t, sign.Sign(t.Context(), path, k, &sign.Options{Time: epoch().Add(time.Hour)}))
		data, err := os.ReadFile(path)
		must(t, err)
		images = append(images, data)
		f, err := sif.NewFile(bytes.NewReader(data), int64(len(data)))
		must(t, err)
		if h := f.Header(); h.Modified.Unix() != (time.Time{}).Unix() {
			t.Errorf("modified %v", h.Modified)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two runs differ")
	}
}

func TestSignSelection(t *testing.T) {
	k := generate(t, sign.KeyOptions{})
	path := copyImage(t, "two-groups")
	must(t, sign.Sign(t.Context(), path, k, &sign.Options{Groups: []uint32{1}}))
	result, err := sign.VerifyPath(t.Context(), path, trust(k))
	if e, ok := errors.AsType[*sign.VerifyError](err); !ok || e.ObjectID != 3 || e.GroupID != 2 || !errors.Is(err, sign.ErrUnsigned) {
		t.Errorf("unsigned second group: %v", err)
	}
	if !result.Objects[0].Covered() || result.Objects[2].Covered() {
		t.Errorf("coverage %+v", result.Objects)
	}
	opts := trust(k)
	opts.AllowUncovered = true
	if _, err := sign.VerifyPath(t.Context(), path, opts); err != nil {
		t.Errorf("primary partition is covered: %v", err)
	}
	must(t, sign.Sign(t.Context(), path, k, &sign.Options{Replace: true, Objects: []uint32{1}}))
	if _, err := sign.VerifyPath(t.Context(), path, opts); !errors.Is(err, sign.ErrUnsigned) {
		t.Errorf("primary partition is not covered: %v", err)
	}
	if err := sign.Sign(t.Context(), path, k, &sign.Options{Objects: []uint32{99}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent object: %v", err)
	}
}

func TestPassphrase(t *testing.T) {
	k := generate(t, sign.KeyOptions{Passphrase: []byte("right")})
	path := newImage(t)
	if err := sign.Sign(t.Context(), path, k, nil); !errors.Is(err, sign.ErrPassphrase) {
		t.Errorf("missing: %v", err)
	}
	given := []byte("wrong")
	err := sign.Sign(t.Context(), path, k, &sign.Options{Passphrase: func(*sign.Key) ([]byte, error) { return given, nil }})
	if !errors.Is(err, sign.ErrPassphrase) || strings.Contains(string(given), "wrong") {
		t.Errorf("wrong: %v, slice %q", err, given)
	}
	err = sign.Sign(t.Context(), path, k, &sign.Options{Passphrase: func(*sign.Key) ([]byte, error) { return nil, fs.ErrClosed }})
	if !errors.Is(err, fs.ErrClosed) {
		t.Errorf("failing callback: %v", err)
	}
	if _, err := sign.VerifyPath(t.Context(), path, trust(k)); err != sign.ErrUnsigned {
		t.Errorf("after failures: %v", err)
	}
}

func TestSignThroughLink(t *testing.T) {
	path, k := newImage(t), generate(t, sign.KeyOptions{})
	link := filepath.Join(t.TempDir(), "latest.sif")
	must(t, os.Symlink(path, link))
	must(t, sign.Sign(t.Context(), link, k, nil))
	if _, err := sign.VerifyPath(t.Context(), path, trust(k)); err != nil {
		t.Error(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Error("the link was replaced")
	}
}

// A failure at any point leaves the old file and nothing else.
func TestSignLeavesOldFile(t *testing.T) {
	k := generate(t, sign.KeyOptions{})
	unchanged := func(t *testing.T, path string, before []byte) {
		t.Helper()
		after, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(before, after) {
			t.Errorf("file was changed: %v", err)
		}
		if got := names(t, filepath.Dir(path)); len(got) != 1 {
			t.Errorf("left behind: %v", got)
		}
	}
	t.Run("cancelled", func(t *testing.T) {
		path := newImage(t)
		before, err := os.ReadFile(path)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := sign.Sign(ctx, path, k, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		unchanged(t, path, before)
	})
	t.Run("malformed", func(t *testing.T) {
		path := newImage(t)
		before, err := os.ReadFile(path)
		must(t, err)
		binary.LittleEndian.PutUint64(before[88:], 1<<40)
		must(t, os.WriteFile(path, before, 0o755))
		if err := sign.Sign(t.Context(), path, k, nil); !errors.Is(err, sif.ErrLimit) {
			t.Errorf("error %v", err)
		}
		unchanged(t, path, before)
	})
	t.Run("full table", func(t *testing.T) {
		path := newImage(t)
		for range 45 {
			must(t, sif.AddObject(t.Context(), path, &sif.NewObject{Type: sif.DataGeneric, Data: strings.NewReader("x"), Group: 1}, nil))
		}
		before, err := os.ReadFile(path)
		must(t, err)
		if err := sign.Sign(t.Context(), path, k, nil); !errors.Is(err, sign.ErrLimit) {
			t.Errorf("error %v", err)
		}
		unchanged(t, path, before)
	})
	t.Run("full disk", func(t *testing.T) {
		oracle.Root(t)
		dir := t.TempDir()
		must(t, exec.Command(oracle.Tool(t, "mount"), "-t", "tmpfs", "-o", "size=64k", "tmpfs", dir).Run())
		t.Cleanup(func() { must(t, exec.Command("umount", dir).Run()) })
		before, err := os.ReadFile(newImage(t))
		must(t, err)
		path := filepath.Join(dir, "image.sif")
		must(t, os.WriteFile(path, before, 0o755))
		if err := sign.Sign(t.Context(), path, k, nil); err == nil {
			t.Error("signed on a full disk")
		}
		unchanged(t, path, before)
	})
}

// GnuPG is asked through its status lines: it says "good" and still exits with 2 for an RSA signature whose armour has no checksum.
func TestGnuPGVerifies(t *testing.T) {
	gpg := newGPG(t)
	for _, k := range []*sign.Key{generate(t, sign.KeyOptions{}), generate(t, sign.KeyOptions{Algorithm: sign.RSA, Bits: 3072})} {
		t.Run(k.Algorithm(), func(t *testing.T) {
			var public bytes.Buffer
			must(t, k.ExportPublic(&public, true))
			gpg.run(t, public.Bytes(), "--import")
			path := newImage(t)
			must(t, sign.Sign(t.Context(), path, k, nil))
			f, err := sif.Open(path)
			must(t, err)
			defer f.Close()
			for _, o := range f.Objects() {
				if o.Type != sif.DataSignature {
					continue
				}
				message := make([]byte, o.Size)
				_, err := o.Open().ReadAt(message, 0)
				must(t, err)
				status := gpg.run(t, message, "--status-fd", "1", "--verify")
				if !strings.Contains(status, "[GNUPG:] GOODSIG") || !strings.Contains(status, "[GNUPG:] VALIDSIG "+string(k.Fingerprint())) {
					t.Errorf("gpg says:\n%s", status)
				}
			}
		})
	}
}

func TestGnuPGKeys(t *testing.T) {
	gpg := newGPG(t)
	for _, algorithm := range []string{"rsa3072", "ed25519"} {
		t.Run(algorithm, func(t *testing.T) {
			name := algorithm + "@example.org"
			gpg.run(t, nil, "--passphrase", "", "--quick-gen-key", name, algorithm, "sign", "never")
			for _, armor := range [][]string{nil, {"--armor"}} {
				ring, err := sign.ReadKeyring(strings.NewReader(gpg.run(t, nil, append(armor, "--export-secret-keys", name)...)))
				must(t, err)
				k := ring.Keys()[0]
				path := newImage(t)
				must(t, sign.Sign(t.Context(), path, k, nil))
				public, err := sign.ReadKeyring(strings.NewReader(gpg.run(t, nil, append(armor, "--export", name)...)))
				must(t, err)
				if _, err := sign.VerifyPath(t.Context(), path, &sign.VerifyOptions{Keyring: public}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestGnuPGSigns has gpg sign what we would, and verifies that.
func TestGnuPGSigns(t *testing.T) {
	gpg := newGPG(t)
	for _, algorithm := range []string{"rsa3072", "ed25519"} {
		t.Run(algorithm, func(t *testing.T) {
			name := algorithm + "@example.org"
			gpg.run(t, nil, "--passphrase", "", "--quick-gen-key", name, algorithm, "sign", "never")
			ring, err := sign.ReadKeyring(strings.NewReader(gpg.run(t, nil, "--export-secret-keys", name)))
			must(t, err)
			path := newImage(t)
			must(t, sign.Sign(t.Context(), path, ring.Keys()[0], nil))
			image, err := os.ReadFile(path)
			must(t, err)
			d := table + 3*slot
			off, size := binary.LittleEndian.Uint64(image[d+fieldOffset:]), binary.LittleEndian.Uint64(image[d+fieldSize:])
			block, _ := clearsign.Decode(image[off : off+size])
			for _, hash := range []string{"SHA256", "SHA384", "SHA512"} {
				theirs := gpg.run(t, bytes.TrimSpace(block.Plaintext), "--local-user", name, "--digest-algo", hash, "--clearsign")
				data := addSignature([]byte(theirs))(bytes.Clone(image))
				clear(data[d : d+slot])
				set64(80, 44)(data)
				result, err := verifyBytes(t, data, trust(ring.Keys()[0].Public()))
				if err != nil || len(result.Signatures) != 1 || result.Signatures[0].Signer == nil {
					t.Errorf("%s: %v", hash, err)
				}
			}
			// SHA-1 can be made to collide (CVE-2022-39237). GnuPG may refuse to use it by then.
			weak := addSignature([]byte(gpg.run(t, bytes.TrimSpace(block.Plaintext), "--local-user", name, "--digest-algo", "SHA1", "--clearsign")))(bytes.Clone(image))
			clear(weak[d : d+slot])
			set64(80, 44)(weak)
			if _, err := verifyBytes(t, weak, trust(ring.Keys()[0].Public())); err == nil {
				t.Error("SHA-1 was accepted")
			}
		})
	}
}

type gnupg struct{ program, home string }

func newGPG(t *testing.T) gnupg {
	t.Helper()
	g := gnupg{program: oracle.Tool(t, "gpg")}
	// The path of the agent's socket is limited to 107 bytes.
	home, err := os.MkdirTemp("", "gpg")
	must(t, err)
	g.home = home
	must(t, os.Chmod(home, 0o700))
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "gpg-agent").Run()
		must(t, os.RemoveAll(home))
	})
	return g
}

func (g gnupg) run(t *testing.T, stdin []byte, args ...string) string {
	t.Helper()
	cmd := exec.Command(g.program, append([]string{"--batch", "--quiet", "--homedir", g.home, "--pinentry-mode", "loopback"}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil && !slices.Contains(args, "--verify") {
		t.Fatalf("gpg %v: %v\n%s", args, err, stderr.String())
	}
	return string(out)
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

func ExampleSign() {
	dir, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "image.sif")
	f, _ := os.Create(path)
	w, _ := sif.NewWriter(f, &sif.WriterOptions{Arch: "amd64"})
	offset, _ := w.BeginPartition()
	_, _ = f.WriteAt([]byte("a squashfs"), offset)
	_ = w.EndPartition(10)
	_, _ = w.Close()
	_ = f.Close()

	key, err := sign.GenerateKey(&sign.KeyOptions{Name: "Site Images", Email: "images@site.example"})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = sign.VerifyPath(context.Background(), path, nil)
	fmt.Println(err)
	if err := sign.Sign(context.Background(), path, key, nil); err != nil {
		fmt.Println(err)
		return
	}
	_, err = sign.VerifyPath(context.Background(), path, nil)
	fmt.Println(err)
	result, err := sign.VerifyPath(context.Background(), path, &sign.VerifyOptions{Keyring: sign.NewKeyring(key.Public())})
	fmt.Println(err, result.Signatures[0].Signer.Identities(), result.Objects[0].Covered())
	// Output:
	// sign: not signed
	// sign: not signed by a trusted key
	// <nil> [Site Images <images@site.example>] true
}
