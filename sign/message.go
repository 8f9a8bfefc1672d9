package sign

import (
	"bytes"
	"context"
	"crypto"
	_ "crypto/sha256" // the digests of messages
	_ "crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

const messageVersion = 1

// message is what is signed: digests of the header, of descriptors and of objects.
type message struct {
	Version int `json:"version"`
	Header  struct {
		Digest digest `json:"digest"`
	} `json:"header"`
	Objects []messageObject `json:"objects"`
}

type messageObject struct {
	RelativeID       uint32 `json:"relativeId"`
	DescriptorDigest digest `json:"descriptorDigest"`
	ObjectDigest     digest `json:"objectDigest"`
}

func parseMessage(text []byte) (*message, error) {
	m := new(message)
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("signed message: %w", err)
	}
	if m.Version != messageVersion {
		return nil, fmt.Errorf("signed message of version %d: %w", m.Version, errors.ErrUnsupported)
	}
	if m.Header.Digest.hash == 0 || len(m.Objects) == 0 {
		return nil, errors.New("signed message covers nothing")
	}
	for _, o := range m.Objects {
		if o.DescriptorDigest.hash == 0 || o.ObjectDigest.hash == 0 {
			return nil, errors.New("signed message lacks a digest")
		}
	}
	return m, nil
}

// digest is written as "sha256:hex".
type digest struct {
	hash  crypto.Hash
	value []byte
}

// readDigest makes the digest that goes into new messages.
func readDigest(ctx context.Context, r io.Reader) (digest, error) {
	w := crypto.SHA256.New()
	if err := copyContext(ctx, w, r, make([]byte, readSize)); err != nil {
		return digest{}, err
	}
	return digest{crypto.SHA256, w.Sum(nil)}, nil
}

// MarshalJSON implements json.Marshaler.
func (d digest) MarshalJSON() ([]byte, error) {
	if d.hash != crypto.SHA256 {
		return nil, errors.ErrUnsupported
	}
	return json.Marshal("sha256:" + hex.EncodeToString(d.value))
}

func digestHash(name string) crypto.Hash {
	switch name {
	case "sha224":
		return crypto.SHA224
	case "sha256":
		return crypto.SHA256
	case "sha384":
		return crypto.SHA384
	case "sha512":
		return crypto.SHA512
	case "sha512_224":
		return crypto.SHA512_224
	case "sha512_256":
		return crypto.SHA512_256
	}
	return 0
}

// UnmarshalJSON implements json.Unmarshaler.
func (d *digest) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	name, text, _ := strings.Cut(s, ":")
	h := digestHash(name)
	if h == 0 {
		return fmt.Errorf("digest algorithm %q: %w", name, errors.ErrUnsupported)
	}
	value, err := hex.DecodeString(text)
	if err != nil || len(value) != h.Size() {
		return fmt.Errorf("malformed %s digest", name)
	}
	*d = digest{h, value}
	return nil
}

func (d digest) matches(data []byte) bool {
	h := d.hash.New()
	h.Write(data)
	return bytes.Equal(h.Sum(nil), d.value)
}

const legacyPrefix = "SIFHASH:\n"

// parseLegacy reads the digest of a message in the format before Singularity 3.6.
func parseLegacy(text []byte, h crypto.Hash) (digest, error) {
	text = bytes.TrimSuffix(bytes.TrimPrefix(text, []byte(legacyPrefix)), []byte("\n"))
	if h == 0 {
		return digest{}, fmt.Errorf("hash of legacy signature: %w", errors.ErrUnsupported)
	}
	value := make([]byte, hex.DecodedLen(len(text)))
	if _, err := hex.Decode(value, text); err != nil || len(value) != h.Size() {
		return digest{}, errors.New("malformed legacy message")
	}
	return digest{h, value}, nil
}
