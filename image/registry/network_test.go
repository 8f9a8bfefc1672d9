package registry_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"hpcimg/image"
	"hpcimg/image/registry"
)

// TestMaxRate: several blobs at once keep to one rate, on their way there and back.
func TestMaxRate(t *testing.T) {
	host := newServer(t).host
	img := build(t, "slow", make([]byte, 150_000), make([]byte, 150_001), make([]byte, 100_000))
	ref := "docker://" + host + "/a/b:v1"
	o := image.RegistryOptions{MaxRate: 1_000_000, IdleTimeout: 100 * time.Millisecond}
	const least = 350 * time.Millisecond // for 400 kB
	started := time.Now()
	if _, err := registry.Push(t.Context(), img, ref, &registry.PushOptions{Registry: o}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took < least {
		t.Errorf("pushed in %s", took)
	}
	started = time.Now()
	got, err := image.Open(t.Context(), ref, &image.Options{Registry: o})
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, img)
	if took := time.Since(started); took < least {
		t.Errorf("pulled in %s", took)
	}
}

// TestProxy: all requests go through the proxy that the options name, to a name that only it knows, and no credential goes to it.
func TestProxy(t *testing.T) {
	target, err := url.Parse("http://" + newServer(t).host)
	if err != nil {
		t.Fatal(err)
	}
	var through atomic.Int32
	forward := httputil.NewSingleHostReverseProxy(target)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		through.Add(1)
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusBadGateway) // there is no HTTPS
			return
		}
		if r.URL.Host != "registry.test" || r.Header.Get("Proxy-Authorization") != "" {
			t.Errorf("asked for %s with %v", r.URL, r.Header)
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	o := image.RegistryOptions{PlainHTTP: true, Proxy: func(*http.Request) (*url.URL, error) { return at, nil }}
	img := build(t, "proxied", []byte("layer"))
	ref := "docker://registry.test/a/b:v1"
	if _, err := registry.Push(t.Context(), img, ref, &registry.PushOptions{Registry: o}); err != nil {
		t.Fatal(err)
	}
	got, err := image.Open(t.Context(), ref, &image.Options{Registry: o})
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, img)
	if through.Load() < 8 {
		t.Errorf("%d requests through the proxy", through.Load())
	}
}

// TestClientCertificate: a registry that wants one gets it, from options that have one.
func TestClientCertificate(t *testing.T) {
	own, pool := selfSigned(t)
	s := httptest.NewUnstartedServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	ref := "docker://" + strings.TrimPrefix(s.URL, "https://") + "/a/b:v1"
	img := build(t, "mutual", []byte("layer"))
	with := image.RegistryOptions{TLS: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{own}}}
	if _, err := registry.Push(t.Context(), img, ref, &registry.PushOptions{Registry: with}); err != nil {
		t.Fatal(err)
	}
	got, err := image.Open(t.Context(), ref, &image.Options{Registry: with})
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, img)
	started := time.Now()
	_, err = image.Open(t.Context(), ref, &image.Options{Registry: image.RegistryOptions{TLS: &tls.Config{RootCAs: roots}, PlainHTTP: true}})
	if _, ok := errors.AsType[*image.TransportError](err); !ok || time.Since(started) > 10*time.Second {
		t.Errorf("without a certificate: %v after %s", err, time.Since(started))
	}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
