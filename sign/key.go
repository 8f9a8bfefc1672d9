package sign

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

const (
	minRSABits     = 3072
	defaultRSABits = 4096
	maxRSABits     = 16384
)

// Fingerprint is the full fingerprint of an OpenPGP key in upper-case hexadecimal: 40 digits, or 64 for a version 6 key.
type Fingerprint string

// ParseFingerprint reads a full fingerprint in any case, with or without spaces and 0x. Shorter key IDs are refused: they can be forged.
func ParseFingerprint(s string) (Fingerprint, error) {
	digits := strings.TrimPrefix(strings.ToUpper(strings.ReplaceAll(s, " ", "")), "0X")
	if raw, err := hex.DecodeString(digits); err != nil || len(raw) != 20 && len(raw) != 32 {
		return "", fmt.Errorf("sign: %q is not a full fingerprint: %w", s, fs.ErrInvalid)
	}
	return Fingerprint(digits), nil
}

func fingerprintOf(raw []byte) Fingerprint {
	return Fingerprint(strings.ToUpper(hex.EncodeToString(raw)))
}

// Algorithm is the kind of a key to be generated.
type Algorithm int

// The algorithms that every OpenPGP implementation in use can verify.
const (
	EdDSA Algorithm = iota // Ed25519 as algorithm 22
	RSA
)

// KeyOptions describe a key to be generated.
type KeyOptions struct {
	// Name, Comment and Email make up the identity. At least one is needed.
	Name, Comment, Email string
	Algorithm            Algorithm
	// Bits is the size of an RSA key, 3072 or more; 0 means 4096.
	Bits int
	// Passphrase protects the secret key when it is written; empty: it is not protected.
	Passphrase []byte
	// Time is the time of creation; zero means now.
	Time time.Time
}

// Key is an OpenPGP key: the public half, and perhaps the secret one. It is immutable and safe for concurrent use.
type Key struct {
	public []byte // transferable public key, binary
	secret []byte // transferable secret key, binary; nil if there is none
	info   keyInfo
}

type keyInfo struct {
	fingerprint Fingerprint
	identities  []string
	created     time.Time
	version     int
	algorithm   packet.PublicKeyAlgorithm
	bits        int
	protected   bool
	revoked     bool
}

// GenerateKey makes a key of version 4.
func GenerateKey(opts *KeyOptions) (*Key, error) {
	var o KeyOptions
	if opts != nil {
		o = *opts
	}
	config := &packet.Config{Time: clock(o.Time), Algorithm: packet.PubKeyAlgoEdDSA}
	if o.Algorithm == RSA {
		if o.Bits == 0 {
			o.Bits = defaultRSABits
		}
		config.Algorithm, config.RSABits = packet.PubKeyAlgoRSA, o.Bits
	}
	switch {
	case o.Name == "" && o.Comment == "" && o.Email == "":
		return nil, fmt.Errorf("sign: KeyOptions: no name, comment or email: %w", fs.ErrInvalid)
	case o.Algorithm != EdDSA && o.Algorithm != RSA:
		return nil, fmt.Errorf("sign: KeyOptions.Algorithm %d: %w", o.Algorithm, fs.ErrInvalid)
	case o.Algorithm == RSA && (o.Bits < minRSABits || o.Bits > maxRSABits) || o.Algorithm != RSA && o.Bits != 0:
		return nil, fmt.Errorf("sign: KeyOptions.Bits %d: %w", o.Bits, fs.ErrInvalid)
	}
	e, err := openpgp.NewEntity(o.Name, o.Comment, o.Email, config)
	if err != nil {
		return nil, fmt.Errorf("sign: generate key: %w", err)
	}
	if len(o.Passphrase) > 0 {
		if err := e.EncryptPrivateKeys(o.Passphrase, config); err != nil {
			return nil, fmt.Errorf("sign: protect key: %w", err)
		}
	}
	return newKey(e)
}

// clock returns a clock that stands at t; nil, which is the wall clock, for the zero time.
func clock(t time.Time) func() time.Time {
	if t.IsZero() {
		return nil
	}
	return func() time.Time { return t }
}

func newKey(e *openpgp.Entity) (*Key, error) {
	k := &Key{info: keyInfo{
		fingerprint: fingerprintOf(e.PrimaryKey.Fingerprint),
		created:     e.PrimaryKey.CreationTime.UTC(),
		version:     e.PrimaryKey.Version,
		algorithm:   e.PrimaryKey.PubKeyAlgo,
		revoked:     len(e.Revocations) > 0,
	}}
	if bits, err := e.PrimaryKey.BitLength(); err == nil {
		k.info.bits = int(bits)
	}
	for name := range e.Identities {
		k.info.identities = append(k.info.identities, name)
	}
	slices.Sort(k.info.identities)
	if id := e.PrimaryIdentity(); id != nil {
		if i := slices.Index(k.info.identities, id.Name); i > 0 {
			k.info.identities = slices.Insert(slices.Delete(k.info.identities, i, i+1), 0, id.Name)
		}
	}
	var public bytes.Buffer
	if err := e.Serialize(&public); err != nil {
		return nil, &KeyError{Fingerprint: k.info.fingerprint, Err: err}
	}
	k.public = public.Bytes()
	if e.PrivateKey != nil {
		k.info.protected = e.PrivateKey.Encrypted
		var secret bytes.Buffer
		if err := e.SerializePrivateWithoutSigning(&secret, nil); err != nil {
			return nil, &KeyError{Fingerprint: k.info.fingerprint, Err: err}
		}
		k.secret = secret.Bytes()
	}
	return k, nil
}

// Fingerprint returns the fingerprint of the primary key, which is the one that signs.
func (k *Key) Fingerprint() Fingerprint { return k.info.fingerprint }

// Identities returns the names on the key, the primary one first. Nobody has checked them.
func (k *Key) Identities() []string { return slices.Clone(k.info.identities) }

// Created returns the time of creation that the key claims.
func (k *Key) Created() time.Time { return k.info.created }

// HasSecret reports whether the secret half is there.
func (k *Key) HasSecret() bool { return k.secret != nil }

// Protected reports whether the secret half needs a passphrase.
func (k *Key) Protected() bool { return k.info.protected }

// Algorithm returns a name such as "RSA 4096" or "EdDSA".
func (k *Key) Algorithm() string {
	switch k.info.algorithm {
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSASignOnly:
		return fmt.Sprintf("RSA %d", k.info.bits)
	case packet.PubKeyAlgoEdDSA:
		return "EdDSA"
	case packet.PubKeyAlgoECDSA:
		return "ECDSA"
	case packet.PubKeyAlgoDSA:
		return "DSA"
	case packet.PubKeyAlgoEd25519:
		return "Ed25519"
	case packet.PubKeyAlgoEd448:
		return "Ed448"
	}
	return fmt.Sprintf("algorithm %d", k.info.algorithm)
}

// String returns fingerprint and primary identity on one line, quoted where needed.
func (k *Key) String() string {
	name := ""
	if len(k.info.identities) > 0 {
		name = k.info.identities[0]
	}
	return fmt.Sprintf("%s %q", k.info.fingerprint, name)
}

// Public returns the key without its secret half.
func (k *Key) Public() *Key {
	p := *k
	p.secret, p.info.protected = nil, false
	return &p
}

// CanSign returns nil, or a *KeyError that says why Sign would refuse the key. A missing passphrase is not a reason. Whether the key has expired, or
// is not for signing, shows only when it signs.
func (k *Key) CanSign() error { return k.canSign(false) }

func (k *Key) canSign(elsewhere bool) error {
	unsupported := func(why string) error {
		return &KeyError{Fingerprint: k.info.fingerprint, Err: fmt.Errorf("%s: %w", why, errors.ErrUnsupported)}
	}
	rsa := k.info.algorithm == packet.PubKeyAlgoRSA || k.info.algorithm == packet.PubKeyAlgoRSASignOnly
	switch {
	case k.secret == nil && !elsewhere:
		return &KeyError{Fingerprint: k.info.fingerprint, Err: errors.New("secret key is missing")}
	case k.info.revoked:
		return &KeyError{Fingerprint: k.info.fingerprint, Err: errors.New("key is revoked")}
	case k.info.version != 4:
		return unsupported(fmt.Sprintf("version %d key does not fit into a SIF signature", k.info.version))
	case rsa && k.info.bits < minRSABits:
		return unsupported(fmt.Sprintf("RSA key of %d bits, need %d", k.info.bits, minRSABits))
	case !rsa && k.info.algorithm != packet.PubKeyAlgoEdDSA:
		return unsupported(k.Algorithm() + " key cannot be verified everywhere")
	}
	return nil
}

// ExportPublic writes the public half, as ASCII armour or in binary.
func (k *Key) ExportPublic(w io.Writer, armored bool) error {
	return export(w, k.public, openpgp.PublicKeyType, armored)
}

// ExportSecret writes the secret half, still protected by its passphrase if it has one.
func (k *Key) ExportSecret(w io.Writer, armored bool) error {
	if k.secret == nil {
		return &KeyError{Fingerprint: k.info.fingerprint, Err: errors.New("secret key is missing")}
	}
	return export(w, k.secret, openpgp.PrivateKeyType, armored)
}

func export(w io.Writer, data []byte, blockType string, armored bool) error {
	if !armored {
		_, err := w.Write(data)
		return err
	}
	// With the checksum line, which GnuPG before 2.4 wants to see.
	a, err := armor.EncodeWithChecksumOption(w, blockType, nil, true)
	if err != nil {
		return err
	}
	if _, err := a.Write(data); err != nil {
		return err
	}
	if err := a.Close(); err != nil {
		return err
	}
	_, err = io.WriteString(w, "\n")
	return err
}

// entity returns the key as the OpenPGP library has it. Each call makes a new one, because that library decrypts in place.
func (k *Key) entity() (*openpgp.Entity, error) {
	data := k.secret
	if data == nil {
		data = k.public
	}
	e, err := openpgp.ReadEntity(packet.NewReader(bytes.NewReader(data)))
	if err != nil {
		return nil, &KeyError{Fingerprint: k.info.fingerprint, Err: err}
	}
	return e, nil
}
