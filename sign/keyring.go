package sign

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// maxKeyring bounds what is read as a key ring. That of a site with hundreds of keys has a few MiB.
const maxKeyring = 16 << 20

// Keyring is a set of keys. It is immutable and safe for concurrent use.
type Keyring struct {
	keys []*Key
}

// NewKeyring returns a key ring. Of two keys with one fingerprint the last counts, but keeps a secret half that only the other has, and a
// revoked one stays revoked.
func NewKeyring(keys ...*Key) *Keyring { return new(Keyring).With(keys...) }

// ReadKeyring reads a key ring, binary or as any number of ASCII-armoured blocks. Keys that the OpenPGP library does not know are skipped, as
// long as one remains.
func ReadKeyring(r io.Reader) (*Keyring, error) {
	data, err := readLimited(r)
	if err != nil {
		return nil, err
	}
	read := readArmored
	if isBinary(data) {
		read = readBinary
	}
	entities, err := read(data)
	if err != nil {
		return nil, fmt.Errorf("sign: key ring: %w", err)
	}
	return keyringOf(entities)
}

func readLimited(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxKeyring+1))
	if err != nil {
		return nil, fmt.Errorf("sign: key ring: %w", err)
	}
	if len(data) > maxKeyring {
		return nil, &LimitError{What: "size of key ring", Limit: maxKeyring}
	}
	return data, nil
}

func keyringOf(entities openpgp.EntityList) (*Keyring, error) {
	keys := make([]*Key, 0, len(entities))
	for _, e := range entities {
		k, err := newKey(e)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return NewKeyring(keys...), nil
}

const armorStart = "-----BEGIN PGP "

// isBinary looks at the first byte, and not for armour anywhere: a name in a binary key may look like armour, and would hide the other keys of
// the ring, or put others in their place.
func isBinary(data []byte) bool {
	if len(data) == 0 || !bytes.Contains(data, []byte(armorStart)) {
		return true
	}
	const packetBit, newFormat = 0x80, 0x40
	tag := data[0] & 0x3f
	if data[0]&newFormat == 0 {
		tag >>= 2
	}
	return data[0]&packetBit != 0 && isPrimary(tag)
}

// isPrimary says whether a packet of a type starts a key.
func isPrimary(tag uint8) bool {
	const secretKey, publicKey = 5, 6
	return tag == secretKey || tag == publicKey
}

func readBinary(data []byte) (openpgp.EntityList, error) {
	return openpgp.ReadKeyRing(bytes.NewReader(data))
}

// countKeys counts the keys of a binary ring, whether the OpenPGP library can make anything of them or not.
func countKeys(data []byte) int {
	n := 0
	for r := packet.NewOpaqueReader(bytes.NewReader(data)); ; {
		p, err := r.Next()
		if p == nil || err != nil {
			return n
		}
		if isPrimary(p.Tag) {
			n++
		}
	}
}

func readArmored(data []byte) (openpgp.EntityList, error) {
	var all openpgp.EntityList
	// The armour reader keeps to its own block only as far as its buffer reaches, so it is given one block at a time.
	for part := range bytes.SplitSeq(data, []byte(armorStart)) {
		if len(bytes.TrimSpace(part)) == 0 {
			continue
		}
		block, err := armor.Decode(bytes.NewReader(append([]byte(armorStart), part...)))
		if err != nil || block.Type != openpgp.PublicKeyType && block.Type != openpgp.PrivateKeyType {
			continue
		}
		list, err := openpgp.ReadKeyRing(block.Body)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	if len(all) == 0 {
		return nil, errors.New("no key found")
	}
	return all, nil
}

// Keys returns the keys in the order in which they were added.
func (r *Keyring) Keys() []*Key {
	if r == nil {
		return nil
	}
	return slices.Clone(r.keys)
}

// Find returns the key with a fingerprint. The error is fs.ErrNotExist if there is none.
func (r *Keyring) Find(fp Fingerprint) (*Key, error) {
	for _, k := range r.Keys() {
		if k.Fingerprint() == fp {
			return k, nil
		}
	}
	return nil, &KeyError{Fingerprint: fp, Err: fs.ErrNotExist}
}

// With returns a key ring that has keys as well.
func (r *Keyring) With(keys ...*Key) *Keyring {
	list := r.Keys()
	for _, k := range keys {
		i := slices.IndexFunc(list, func(have *Key) bool { return have.Fingerprint() == k.Fingerprint() })
		if i < 0 {
			list = append(list, k)
			continue
		}
		list[i] = merge(list[i], k)
	}
	return &Keyring{keys: list}
}

// merge returns newer with what it must not lose of the same key as it was.
func merge(older, newer *Key) *Key {
	merged := *newer
	if older.info.revoked && !newer.info.revoked {
		merged.public, merged.info = older.public, older.info
	}
	merged.secret, merged.info.protected = newer.secret, newer.info.protected
	if newer.secret == nil {
		merged.secret, merged.info.protected = older.secret, older.info.protected
	}
	return &merged
}

// Without returns a key ring that lacks the key with a fingerprint.
func (r *Keyring) Without(fp Fingerprint) *Keyring {
	return &Keyring{keys: slices.DeleteFunc(r.Keys(), func(k *Key) bool { return k.Fingerprint() == fp })}
}

// entities returns the public keys for the OpenPGP library.
func (r *Keyring) entities(allowed func(Fingerprint) bool) (openpgp.EntityList, error) {
	var list openpgp.EntityList
	for _, k := range r.Keys() {
		if !allowed(k.Fingerprint()) {
			continue
		}
		e, err := k.Public().entity()
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}
