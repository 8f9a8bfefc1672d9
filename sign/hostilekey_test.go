package sign_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"hpcimg/sign"
)

// entity makes a key and lets change do to it what GenerateKey does not; change may sign the identity anew.
func entity(t testing.TB, name string, change func(e *openpgp.Entity, self *packet.Signature)) *openpgp.Entity {
	t.Helper()
	config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return epoch() }}
	e, err := openpgp.NewEntity(name, "", "", config)
	must(t, err)
	e.Subkeys = nil
	id := e.PrimaryIdentity()
	if change != nil {
		change(e, id.SelfSignature)
	}
	must(t, id.SelfSignature.SignUserId(id.UserId.Id, e.PrimaryKey, e.PrivateKey, config))
	return e
}

func serialize(t testing.TB, e *openpgp.Entity, secret bool) []byte {
	t.Helper()
	var b bytes.Buffer
	if secret {
		must(t, e.SerializePrivateWithoutSigning(&b, nil))
	} else {
		must(t, e.Serialize(&b))
	}
	return b.Bytes()
}

func readKey(t testing.TB, data []byte) *sign.Key {
	t.Helper()
	ring, err := sign.ReadKeyring(bytes.NewReader(data))
	must(t, err)
	if len(ring.Keys()) != 1 {
		t.Fatalf("%d keys", len(ring.Keys()))
	}
	return ring.Keys()[0]
}

// TestKeyNamedLikeArmour: the name of a key is anything. It once made its key ring unreadable, or another one.
func TestKeyNamedLikeArmour(t *testing.T) {
	d, err := sign.OpenKeyDir(t.TempDir())
	must(t, err)
	var other bytes.Buffer
	must(t, generate(t, sign.KeyOptions{Name: "Other"}).ExportPublic(&other, true))
	must(t, d.Add(t.Context(), generate(t, sign.KeyOptions{Name: "Good"})))
	for _, name := range []string{"-----BEGIN PGP PUBLIC KEY BLOCK-----", "\n" + other.String()} {
		k := readKey(t, serialize(t, entity(t, name, nil), false))
		if got := k.Identities(); len(got) != 1 || got[0] != name {
			t.Errorf("identities %q", got)
		}
		must(t, d.Add(t.Context(), k))
	}
	ring, err := d.Public()
	if err != nil || len(ring.Keys()) != 3 {
		t.Errorf("%d keys, %v", len(ring.Keys()), err)
	}
}

// TestUnknownKeysAreNotLost: a ring that holds a key which nobody here understands is not rewritten without it.
func TestUnknownKeysAreNotLost(t *testing.T) {
	known, unknown := serialize(t, entity(t, "known", nil), true), serialize(t, entity(t, "unknown", nil), true)
	created := epoch().Unix()
	at := bytes.Index(unknown, []byte{4, byte(created >> 24), byte(created >> 16), byte(created >> 8), byte(created)})
	unknown[at+5] = 99 // no algorithm has this number
	path := t.TempDir()
	d, err := sign.OpenKeyDir(path)
	must(t, err)
	ring := filepath.Join(path, "pgp-secret")
	must(t, os.WriteFile(ring, append(known, unknown...), 0o600))
	if keys, err := d.Secret(); err != nil || len(keys.Keys()) != 1 {
		t.Errorf("%d keys, %v", len(keys.Keys()), err)
	}
	if err := d.Add(t.Context(), generate(t, sign.KeyOptions{})); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("add: %v", err)
	}
	if err := d.Remove(t.Context(), readKey(t, known).Fingerprint()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("remove: %v", err)
	}
	if data, err := os.ReadFile(ring); err != nil || !bytes.HasSuffix(data, unknown) {
		t.Errorf("the unknown key is gone: %v", err)
	}
}

// TestKeysThatCannotVerify are refused when they would sign.
func TestKeysThatCannotVerify(t *testing.T) {
	lifetime := uint32(3600)
	for name, tt := range map[string]struct {
		change func(*openpgp.Entity, *packet.Signature)
		is     error
	}{
		"certifies only": {func(_ *openpgp.Entity, self *packet.Signature) { self.FlagSign = false }, errors.ErrUnsupported},
		"expired":        {func(_ *openpgp.Entity, self *packet.Signature) { self.KeyLifetimeSecs = &lifetime }, pgperrors.ErrKeyExpired},
		"revoked":        {func(e *openpgp.Entity, _ *packet.Signature) { must(t, e.RevokeKey(packet.KeyCompromised, "", nil)) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			k := readKey(t, serialize(t, entity(t, "x", tt.change), true))
			path := newImage(t)
			before := must2(os.ReadFile(path))(t)
			err := sign.Sign(t.Context(), path, k, nil)
			if e, ok := errors.AsType[*sign.KeyError](err); !ok || e.Fingerprint != k.Fingerprint() || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v", err)
			}
			if after := must2(os.ReadFile(path))(t); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
	// One that has nothing to hide signs with any date.
	k := readKey(t, serialize(t, entity(t, "x", nil), true))
	path := newImage(t)
	must(t, sign.Sign(t.Context(), path, k, &sign.Options{Time: epoch().AddDate(-1, 0, 0)}))
	if _, err := sign.VerifyPath(t.Context(), path, trust(k.Public())); err != nil {
		t.Error(err)
	}
}

// TestRevocationStays: an older copy of a key, from before its revocation, does not bring it back.
func TestRevocationStays(t *testing.T) {
	e := entity(t, "x", nil)
	old := readKey(t, serialize(t, e, true))
	path := newImage(t)
	must(t, sign.Sign(t.Context(), path, old, nil))
	must(t, e.RevokeKey(packet.KeyCompromised, "", nil))
	revoked := readKey(t, serialize(t, e, false))
	d, err := sign.OpenKeyDir(t.TempDir())
	must(t, err)
	for _, k := range []*sign.Key{old, revoked, old.Public(), old} {
		must(t, d.Add(t.Context(), k))
	}
	found, err := d.Find(old.Fingerprint())
	must(t, err)
	if err := found.CanSign(); err == nil || !found.HasSecret() {
		t.Error("a revoked key can sign")
	}
	ring, err := d.Public()
	must(t, err)
	for _, r := range []*sign.Keyring{ring, sign.NewKeyring(old, revoked, old)} {
		if _, err := sign.VerifyPath(t.Context(), path, &sign.VerifyOptions{Keyring: r}); !errors.Is(err, sign.ErrUntrusted) {
			t.Errorf("signature of a revoked key: %v", err)
		}
	}
}
