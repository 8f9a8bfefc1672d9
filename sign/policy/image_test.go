package policy_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hpcimg/sif"
	"hpcimg/sign"
	"hpcimg/sign/policy"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func epoch() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func newKey(t testing.TB, name string) *sign.Key {
	t.Helper()
	k, err := sign.GenerateKey(&sign.KeyOptions{Name: name, Time: epoch()})
	must(t, err)
	return k
}

// imageSize and imageOffset are those of the partition of newImage.
const imageOffset, imageSize = 32768, 4096

// newImage writes an image of one group: definition, JSON, partition.
func newImage(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.sif")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o755)
	must(t, err)
	defer f.Close()
	must(t, f.Chmod(0o755)) // whatever the umask is
	w, err := sif.NewWriter(f, &sif.WriterOptions{Arch: "amd64", Time: epoch(), ID: [16]byte{1}})
	must(t, err)
	must(t, w.AddDefinition([]byte("bootstrap: docker\nfrom: debian\n")))
	must(t, w.AddJSON(sif.NameOCIConfig, []byte(`{"Cmd":["sh"]}`)))
	offset, err := w.BeginPartition()
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("hsqs"), imageSize/4), offset)
	must(t, err)
	must(t, w.EndPartition(imageSize))
	_, err = w.Close()
	must(t, err)
	if offset != imageOffset {
		t.Fatalf("partition at %d", offset)
	}
	return path
}

func signedBy(t testing.TB, path string, keys ...*sign.Key) string {
	t.Helper()
	for _, k := range keys {
		must(t, sign.Sign(t.Context(), path, k, &sign.Options{Time: epoch()}))
	}
	return path
}

// edit changes the bytes of a file.
func edit(t testing.TB, path string, change func([]byte) []byte) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, change(data), 0o755))
	return path
}

func checkPath(t testing.TB, p *policy.Policy, path string) (*policy.Decision, error) {
	t.Helper()
	return checkPart(t, p, path, imageOffset, imageSize)
}

func checkPart(t testing.TB, p *policy.Policy, path string, offset, size int64) (*policy.Decision, error) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	return p.CheckFile(context.Background(), f, offset, size)
}

func newPolicy(t testing.TB, c policy.Config) *policy.Policy {
	t.Helper()
	p, err := policy.New(&c)
	must(t, err)
	return p
}

func fp(k *sign.Key) string { return string(k.Fingerprint()) }

func flip(off int) func([]byte) []byte {
	return func(b []byte) []byte { b[off] ^= 1; return b }
}
