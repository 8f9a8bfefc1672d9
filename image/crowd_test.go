package image_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"hpcimg/image"
	"hpcimg/image/cache"
	"hpcimg/image/registry"
	"hpcimg/internal/oracle"
)

// long makes crowds of processes instead of goroutines, and their image larger.
var long = flag.Bool("image.long", false, "pull 100 MiB with 200 processes, with 16 nodes, and kill some of them")

// crowdLayers are the layers that a crowd wants: some more than a MiB, some less.
func crowdLayers() [][]byte {
	sizes := []int{3<<20 + 17, 1 << 20, 100_000, 777}
	if *long {
		sizes = append(sizes, 100<<20+5)
	}
	var layers [][]byte
	for i, n := range sizes {
		layers = append(layers, random(n, byte(100+i)))
	}
	return layers
}

// crowd runs processes and wants all to end well.
func crowd(t *testing.T, processes []*exec.Cmd) {
	t.Helper()
	started := time.Now()
	var wg sync.WaitGroup
	for i, cmd := range processes {
		wg.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("process %d: %v\n%s", i, err, out)
			}
		})
	}
	wg.Wait()
	t.Logf("%d processes took %s", len(processes), time.Since(started).Round(time.Millisecond))
}

// checkCache wants each blob of an image to be a good entry, and nothing else to be left.
func checkCache(t *testing.T, dir string, img *image.Image) {
	t.Helper()
	c, err := cache.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := img.Manifest()
	want := len(m.Layers) + 1
	if r, err := c.Verify(t.Context(), nil); err != nil || r.Entries != want || len(r.Corrupt) > 0 {
		t.Errorf("%+v, %v; want %d entries", r, err, want)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasPrefix(d.Name(), ".") {
			t.Errorf("left: %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// servedOnce wants the registry to have given each blob once.
func (c *counting) servedOnce(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.image.Manifest()
	for _, d := range append(m.Layers, m.Config) {
		if name := d.Digest.String(); c.asked[name] != 1 || c.given[name] != d.Size {
			t.Errorf("%s of %d bytes: asked for %d times, %d bytes given", name, d.Size, c.asked[name], c.given[name])
		}
	}
}

// TestCrowd: 200 pulls of one image at once, in several processes of one machine, cost one download.
func TestCrowd(t *testing.T) {
	reg := newCounting(t, crowdLayers()...)
	dir := filepath.Join(t.TempDir(), "cache")
	n := 4
	if *long {
		n = 200
	}
	var processes []*exec.Cmd
	for range n {
		processes = append(processes, puller{Ref: reg.ref(), Dir: dir, Times: 200 / n}.command(t))
	}
	crowd(t, processes)
	reg.servedOnce(t)
	checkCache(t, dir, reg.image)
}

// TestCrowdAtDockerRegistry: the same at Debian's registry, by its own log.
func TestCrowdAtDockerRegistry(t *testing.T) {
	for _, tc := range []struct {
		name     string
		tls      bool
		password string
	}{{"HTTP", false, ""}, {"TLS", true, ""}, {"TLS and htpasswd", true, "secret"}} {
		t.Run(tc.name, func(t *testing.T) {
			r := startRegistry(t, tc.tls, tc.password)
			var in []image.LayerInput
			for _, l := range crowdLayers() {
				in = append(in, image.LayerInput{Tar: l, Compression: image.CompressionNone})
			}
			img, err := image.Build(image.Config{Platform: image.Platform{OS: "linux", Architecture: "amd64"}}, in...)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "cache")
			p := puller{Ref: "docker://" + r.host + "/crowd:v1", Dir: dir, Times: 10, CA: r.ca, Password: tc.password}
			if _, err := registry.Push(t.Context(), img, p.Ref, &registry.PushOptions{Registry: p.registry()}); err != nil {
				t.Fatal(err)
			}
			crowd(t, []*exec.Cmd{p.command(t), p.command(t)})
			m := img.Manifest()
			for _, d := range append(m.Layers, m.Config) {
				if n := r.gets(d.Digest.String()); n != 1 {
					t.Errorf("%s was given %d times", d.Digest, n)
				}
			}
			checkCache(t, dir, img)
		})
	}
}

// dockerRegistry is Debian's registry program.
type dockerRegistry struct {
	host string
	ca   []byte
	log  string // of accesses
}

// gets counts the answers with bytes of a blob.
func (r *dockerRegistry) gets(digest string) int {
	raw, err := os.ReadFile(r.log)
	if err != nil {
		return -1
	}
	line := regexp.MustCompile(`"GET /v2/[^ ]*/blobs/` + regexp.QuoteMeta(digest) + ` [^"]*" 20`)
	return len(line.FindAll(raw, -1))
}

func startRegistry(t *testing.T, withTLS bool, password string) *dockerRegistry {
	t.Helper()
	bin := oracle.Tool(t, "docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := &dockerRegistry{host: l.Addr().String(), log: filepath.Join(dir, "log")}
	_ = l.Close()
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: false}}\nstorage: {filesystem: {rootdirectory: %s}}\n", filepath.Join(dir, "data"))
	if password != "" {
		// bcrypt of "secret"
		users := filepath.Join(dir, "htpasswd")
		writeFile(t, users, []byte("me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"))
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s}}\n", users)
	}
	config += fmt.Sprintf("http:\n  addr: %s\n", r.host)
	if withTLS {
		var key []byte
		r.ca, key = certificate(t)
		writeFile(t, filepath.Join(dir, "cert.pem"), r.ca)
		writeFile(t, filepath.Join(dir, "key.pem"), key)
		config += fmt.Sprintf("  tls: {certificate: %s/cert.pem, key: %s/key.pem}\n", dir, dir)
	}
	writeFile(t, filepath.Join(dir, "config.yml"), []byte(config))
	out, err := os.Create(r.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(bin, "serve", filepath.Join(dir, "config.yml"))
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range 200 {
		if c, err := net.Dial("tcp", r.host); err == nil {
			_ = c.Close()
			return r
		}
		time.Sleep(50 * time.Millisecond)
	}
	raw, _ := os.ReadFile(r.log)
	t.Fatalf("docker-registry does not answer: %s", raw)
	return nil
}

// certificate makes one for 127.0.0.1 that is its own authority.
func certificate(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(cryptorand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func writeFile(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCustomAuthority: a certificate of the site's own authority is believed if the options say so, and only then.
func TestCustomAuthority(t *testing.T) {
	r := startRegistry(t, true, "secret")
	p := puller{Ref: "docker://" + r.host + "/none:v1", CA: r.ca, Password: "secret"}
	_, err := image.Open(t.Context(), p.Ref, &image.Options{Registry: p.registry()})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with the authority: %v", err)
	}
	p.CA = nil
	_, err = image.Open(t.Context(), p.Ref, &image.Options{Registry: p.registry()})
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("without: %v", err)
	}
	if raw, _ := os.ReadFile(r.log); bytes.Contains(raw, []byte("secret")) {
		t.Error("a password is in the log")
	}
}
