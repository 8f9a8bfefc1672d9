package sign_test

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sylabs/sif/v2/pkg/integrity"
	sylabs "github.com/sylabs/sif/v2/pkg/sif"

	"hpcimg/internal/oracle"
	"hpcimg/sif"
	"hpcimg/sign"
)

// dsseKeys are keys of every kind that signs.
func dsseKeys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	keys := make(map[string]crypto.Signer)
	for _, kind := range []sign.KeyType{sign.KeyECDSA, sign.KeyEd25519, sign.KeyRSA} {
		k, err := sign.GeneratePrivateKey(kind)
		must(t, err)
		keys[string(kind)] = k
	}
	for name, curve := range map[string]elliptic.Curve{"p384": elliptic.P384(), "p521": elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		must(t, err)
		keys[name] = k
	}
	return keys
}

// opaque is a signer that is nothing else, as a token is.
type opaque struct{ crypto.Signer }

// TestSignDSSE signs with keys of every kind, alone and together; we and sylabs/sif verify.
func TestSignDSSE(t *testing.T) {
	keys := dsseKeys(t)
	path := newImage(t)
	var all []crypto.Signer
	var public []crypto.PublicKey
	for name, key := range keys {
		t.Run(name, func(t *testing.T) {
			must(t, sign.SignDSSE(t.Context(), path, []crypto.Signer{opaque{key}}, &sign.Options{Replace: true}))
			checkDSSE(t, path, key.Public())
		})
		all, public = append(all, key), append(public, key.Public())
	}
	t.Run("all", func(t *testing.T) {
		must(t, sign.SignDSSE(t.Context(), path, all, &sign.Options{Replace: true}))
		checkDSSE(t, path, public...)
	})
	t.Run("beside PGP", func(t *testing.T) {
		k := generate(t, sign.KeyOptions{})
		must(t, sign.Sign(t.Context(), path, k, nil))
		opts := trust(k)
		opts.PublicKeys = public[:1]
		result, err := sign.VerifyPath(t.Context(), path, opts)
		if err != nil || len(result.Signatures) != 2 || len(result.Objects[0].Signatures) != 2 {
			t.Errorf("%v, %+v", err, result)
		}
	})
}

func checkDSSE(t *testing.T, path string, keys ...crypto.PublicKey) {
	t.Helper()
	f, err := sif.Open(path)
	must(t, err)
	defer f.Close()
	result, err := sign.Verify(t.Context(), f, &sign.VerifyOptions{PublicKeys: keys})
	must(t, err)
	if s := result.Signatures[0]; len(s.PublicKeys) != len(keys) || s.Format != sign.FormatDSSE || !result.Objects[0].Covered() {
		t.Errorf("signature %+v", s)
	}
	other, err := sign.GeneratePrivateKey(sign.KeyECDSA)
	must(t, err)
	if _, err := sign.Verify(t.Context(), f, &sign.VerifyOptions{PublicKeys: []crypto.PublicKey{other.Public()}}); !errors.Is(err, sign.ErrUntrusted) {
		t.Errorf("with another key: %v", err)
	}
	for _, key := range keys {
		v, err := signature.LoadVerifier(key, crypto.SHA256)
		must(t, err)
		must(t, integrityVerify(t, f, sign.NewKeyring(), integrity.OptVerifyWithVerifier(v)))
	}
}

// TestSameAsSylabs compares whole files, so that nothing of the format is left to both sides' leniency.
func TestSameAsSylabs(t *testing.T) {
	key := generate(t, sign.KeyOptions{Time: epoch()})
	ed, err := sign.GeneratePrivateKey(sign.KeyEd25519)
	must(t, err)
	var secret bytes.Buffer
	must(t, key.ExportSecret(&secret, false))
	list, err := openpgp.ReadKeyRing(&secret)
	must(t, err)
	edSigner, err := signature.LoadSigner(ed, crypto.SHA256)
	must(t, err)
	tests := []struct {
		name   string
		ours   func(path string) error
		theirs []integrity.SignerOpt
	}{
		{
			"pgp", func(path string) error { return sign.Sign(t.Context(), path, key, &sign.Options{Time: epoch()}) },
			[]integrity.SignerOpt{integrity.OptSignWithEntity(list[0])},
		},
		{
			"dsse", func(path string) error {
				return sign.SignDSSE(t.Context(), path, []crypto.Signer{ed}, &sign.Options{Time: epoch()})
			},
			[]integrity.SignerOpt{integrity.OptSignWithSigner(edSigner)},
		},
		{
			"objects", func(path string) error {
				return sign.Sign(t.Context(), path, key, &sign.Options{Time: epoch(), Objects: []uint32{3, 2, 1}})
			},
			[]integrity.SignerOpt{integrity.OptSignWithEntity(list[0]), integrity.OptSignObjects(3, 2, 1)},
		},
		{
			"group and object", func(path string) error {
				return sign.Sign(t.Context(), path, key, &sign.Options{Time: epoch(), Groups: []uint32{1}, Objects: []uint32{3}})
			},
			[]integrity.SignerOpt{integrity.OptSignWithEntity(list[0]), integrity.OptSignGroup(1), integrity.OptSignObjects(3)},
		},
	}
	c := openCorpus(t)
	for _, tt := range tests {
		for _, name := range []string{"one-group", "two-groups"} {
			if name == "one-group" && strings.Contains(tt.name, "object") {
				continue
			}
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				data, err := os.ReadFile(c.image(name))
				must(t, err)
				ours, theirs := filepath.Join(t.TempDir(), "ours.sif"), filepath.Join(t.TempDir(), "theirs.sif")
				must(t, os.WriteFile(ours, data, 0o600))
				must(t, os.WriteFile(theirs, data, 0o600))
				must(t, tt.ours(ours))
				img, err := sylabs.LoadContainerFromPath(theirs)
				must(t, err)
				opts := append(tt.theirs, integrity.OptSignWithTime(epoch), integrity.OptSignWithoutPGPSignatureSalt())
				if img.ID() == "00000000-0000-0000-0000-000000000000" {
					opts = append(opts, integrity.OptSignDeterministic())
				}
				s, err := integrity.NewSigner(img, opts...)
				must(t, err)
				must(t, s.Sign())
				must(t, img.UnloadContainer())
				a, err := os.ReadFile(ours)
				must(t, err)
				b, err := os.ReadFile(theirs)
				must(t, err)
				if !bytes.Equal(a, b) {
					t.Errorf("files differ: %d and %d bytes", len(a), len(b))
				}
			})
		}
	}
}

// TestSignersThatFail wants the old file when a token does not do as it should.
func TestSignersThatFail(t *testing.T) {
	keys := dsseKeys(t)
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	must(t, err)
	broken := errors.New("token was pulled out")
	for name, signers := range map[string][]crypto.Signer{
		"none":             nil,
		"wrong signature":  {impostor{keys["ecdsa"], keys["ed25519"].Public()}},
		"wrong key":        {impostor{keys["ecdsa"], mustKey(t, sign.KeyECDSA).Public()}},
		"error":            {failing{keys["rsa"], broken}},
		"weak":             {weak},
		"unusual curve":    {p224},
		"second one fails": {keys["ecdsa"], failing{keys["rsa"], broken}},
		"too many":         make([]crypto.Signer, 17),
	} {
		t.Run(name, func(t *testing.T) {
			path := newImage(t)
			before, err := os.ReadFile(path)
			must(t, err)
			err = sign.SignDSSE(t.Context(), path, signers, nil)
			if err == nil {
				t.Fatal("signed")
			}
			if strings.Contains(name, "fails") && !errors.Is(err, broken) {
				t.Error(err)
			}
			after, err := os.ReadFile(path)
			must(t, err)
			if !bytes.Equal(before, after) || len(names(t, filepath.Dir(path))) != 1 {
				t.Error("the file has changed, or something was left")
			}
		})
	}
}

func mustKey(t testing.TB, kind sign.KeyType) crypto.Signer {
	t.Helper()
	k, err := sign.GeneratePrivateKey(kind)
	must(t, err)
	return k
}

type impostor struct {
	crypto.Signer
	public crypto.PublicKey
}

func (i impostor) Public() crypto.PublicKey { return i.public }

type failing struct {
	crypto.Signer
	err error
}

func (f failing) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, f.err }

// TestPGPWithToken signs with an RSA key whose secret half is not ours to see.
func TestPGPWithToken(t *testing.T) {
	k := generate(t, sign.KeyOptions{Algorithm: sign.RSA, Bits: 3072})
	var secret bytes.Buffer
	must(t, k.ExportSecret(&secret, false))
	list, err := openpgp.ReadKeyRing(&secret)
	must(t, err)
	token := opaque{list[0].PrivateKey.PrivateKey.(*rsa.PrivateKey)}

	path := newImage(t)
	must(t, sign.Sign(t.Context(), path, k.Public(), &sign.Options{Signer: token}))
	_, err = sign.VerifyPath(t.Context(), path, trust(k))
	must(t, err)
	if err := sign.Sign(t.Context(), path, k.Public(), nil); err == nil {
		t.Error("signed without a secret key")
	}
	broken := errors.New("token was pulled out")
	if err := sign.Sign(t.Context(), path, k.Public(), &sign.Options{Signer: failing{token, broken}}); !errors.Is(err, broken) {
		t.Errorf("failing token: %v", err)
	}
	other := generate(t, sign.KeyOptions{Algorithm: sign.RSA, Bits: 3072})
	if err := sign.Sign(t.Context(), path, other.Public(), &sign.Options{Signer: token}); err == nil {
		t.Error("signed with the token of another key")
	}
}

// TestOpenSSLVerifies has openssl check the envelopes that we make.
func TestOpenSSLVerifies(t *testing.T) {
	openssl := oracle.Tool(t, "openssl")
	for name, key := range dsseKeys(t) {
		t.Run(name, func(t *testing.T) {
			path := newImage(t)
			must(t, sign.SignDSSE(t.Context(), path, []crypto.Signer{key}, nil))
			f, err := sif.Open(path)
			must(t, err)
			defer f.Close()
			o, err := f.Object(4)
			must(t, err)
			var e struct {
				PayloadType string
				Payload     []byte
				Signatures  []struct{ Sig []byte }
			}
			must(t, json.NewDecoder(o.Open()).Decode(&e))
			dir := t.TempDir()
			file := func(name string, data []byte) string {
				p := filepath.Join(dir, name)
				must(t, os.WriteFile(p, data, 0o600))
				return p
			}
			var pub bytes.Buffer
			must(t, sign.WritePublicKey(&pub, key.Public()))
			message := file("message", fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(e.Payload), e.Payload))
			pubFile, sigFile := file("pub", pub.Bytes()), file("sig", e.Signatures[0].Sig)
			args := []string{"dgst", "-sha256", "-verify", pubFile, "-signature", sigFile, message}
			if _, ok := key.(ed25519.PrivateKey); ok {
				args = []string{"pkeyutl", "-verify", "-pubin", "-inkey", pubFile, "-rawin", "-in", message, "-sigfile", sigFile}
			}
			if out, err := exec.Command(openssl, args...).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			if !json.Valid(e.Payload) {
				t.Errorf("payload %q", e.Payload)
			}
		})
	}
}

// TestApptainerFixtures checks the fixtures of apptainer/sif that differ from those of sylabs/sif.
func TestApptainerFixtures(t *testing.T) {
	c := openCorpus(t)
	ring := sign.NewKeyring(c.key(t).Public())
	for _, name := range []string{"one-group-signed-pgp", "two-groups-signed-pgp", "one-group-signed-dsse", "two-groups-signed-dsse"} {
		t.Run(name, func(t *testing.T) {
			z, err := os.Open(filepath.Join("testdata", "apptainer-"+name+".sif.gz"))
			must(t, err)
			defer z.Close()
			r, err := gzip.NewReader(z)
			must(t, err)
			data, err := io.ReadAll(r)
			must(t, err)
			for _, opts := range []*sign.VerifyOptions{
				{Keyring: ring, PublicKeys: []crypto.PublicKey{c.public(t, "ed25519"), c.public(t, "rsa"), c.public(t, "ecdsa")}},
				{Keyring: ring, PublicKeys: []crypto.PublicKey{c.public(t, "rsa")}, Legacy: true, Workers: 1},
				{Keyring: ring, PublicKeys: []crypto.PublicKey{c.public(t, "ed25519")}, AllowUncovered: true},
			} {
				_, err := verifyBytes(t, data, opts)
				must(t, err)
			}
			if _, err := verifyBytes(t, data, nil); !errors.Is(err, sign.ErrUntrusted) {
				t.Errorf("without keys: %v", err)
			}
		})
	}
}

// TestEnvelopes is about what may be written into an envelope.
func TestEnvelopes(t *testing.T) {
	key := mustKey(t, sign.KeyEd25519)
	path := newImage(t)
	must(t, sign.SignDSSE(t.Context(), path, []crypto.Signer{key}, nil))
	image, err := os.ReadFile(path)
	must(t, err)
	f, err := sif.Open(path)
	must(t, err)
	defer f.Close()
	o, err := f.Object(4)
	must(t, err)
	envelope := make([]byte, o.Size)
	_, err = io.ReadFull(o.Open(), envelope)
	must(t, err)
	var e map[string]any
	must(t, json.Unmarshal(envelope, &e))
	change := func(name string, v any) []byte {
		c := map[string]any{"payloadType": e["payloadType"], "payload": e["payload"], "signatures": e["signatures"]}
		c[name] = v
		data, err := json.Marshal(c)
		must(t, err)
		return data
	}
	signatures := e["signatures"].([]any)
	payload, err := base64.StdEncoding.DecodeString(e["payload"].(string))
	must(t, err)
	tests := []struct {
		name string
		data []byte
		want error // nil: good
	}{
		{"as it was", envelope, nil},
		{"key ID that lies", change("signatures", []any{map[string]any{"keyid": "SHA256:other", "sig": signatures[0].(map[string]any)["sig"]}}), sign.ErrUntrusted},
		{"no key ID", change("signatures", []any{map[string]any{"sig": signatures[0].(map[string]any)["sig"]}}), nil},
		{"foreign signature first", change("signatures", append([]any{map[string]any{"keyid": "", "sig": "AAAA"}}, signatures...)), nil},
		{"payload in URL encoding", change("payload", base64.URLEncoding.EncodeToString(payload)), nil},
		{"another type", change("payloadType", "application/vnd.in-toto+json"), sign.ErrUntrusted},
		{"another payload", change("payload", base64.StdEncoding.EncodeToString(append(payload, ' '))), sign.ErrUntrusted},
		{"no signatures", change("signatures", []any{}), sign.ErrUntrusted},
		{"many signatures", change("signatures", make([]any, 17)), sign.ErrUntrusted},
		{"trailing text", append(bytes.Clone(envelope), "{}"...), sign.ErrUntrusted},
		{"payload is no base64", change("payload", "*"), sign.ErrUntrusted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// The original is replaced by one that is appended.
			data := addSignature(tt.data)(bytes.Clone(image))
			d := table + 3*slot
			clear(data[d : d+slot])
			set64(80, 44)(data)
			_, err := verifyBytes(t, data, &sign.VerifyOptions{PublicKeys: []crypto.PublicKey{key.Public()}})
			if !errors.Is(err, tt.want) || (tt.want == nil) != (err == nil) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}
