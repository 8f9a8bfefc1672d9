package policy_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"hpcimg/sif"
	"hpcimg/sign"
	"hpcimg/sign/policy"
)

// Layout of SIF, stated here so that a mistake in it shows.
const (
	table, slot                                                           = 4096, 585
	fieldType, fieldGroup, fieldLink, fieldOffset, fieldSize, fieldPadded = 0, 9, 13, 17, 25, 33
	fieldCreated, fieldModified, fieldName, fieldExtra                    = 41, 49, 73, 201
	free, total                                                           = 80, 88
)

func set64(off int, v uint64) func([]byte) []byte {
	return func(b []byte) []byte { binary.LittleEndian.PutUint64(b[off:], v); return b }
}

func set32(off int, v uint32) func([]byte) []byte {
	return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[off:], v); return b }
}

func get64(b []byte, off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }

// object returns the bytes of the object in a slot.
func object(b []byte, n int) []byte {
	d := table + n*slot
	return b[get64(b, d+fieldOffset):][:get64(b, d+fieldSize)]
}

// appendObject copies a descriptor to a free slot, for data that is appended.
func appendObject(from int, data []byte, change func(d []byte)) func([]byte) []byte {
	return func(b []byte) []byte {
		n := int(get64(b, total) - get64(b, free))
		d := table + n*slot
		copy(b[d:d+slot], b[table+from*slot:])
		binary.LittleEndian.PutUint32(b[d+5:], uint32(n+1))
		binary.LittleEndian.PutUint64(b[d+fieldOffset:], uint64(len(b)))
		binary.LittleEndian.PutUint64(b[d+fieldSize:], uint64(len(data)))
		set64(free, get64(b, free)-1)(b)
		if change != nil {
			change(b[d : d+slot])
		}
		return append(b, data...)
	}
}

// remove frees the slot of an object.
func remove(n int) func([]byte) []byte {
	return func(b []byte) []byte {
		clear(b[table+n*slot : table+(n+1)*slot])
		return set64(free, get64(b, free)+1)(b)
	}
}

// replace puts other data in the place of an object's, at the end of the file.
func replace(n int, data []byte) func([]byte) []byte {
	return func(b []byte) []byte {
		set64(table+n*slot+fieldOffset, uint64(len(b)))(b)
		set64(table+n*slot+fieldSize, uint64(len(data)))(b)
		return append(b, data...)
	}
}

// clearSigned signs a text that is not of the right kind with a key.
func clearSigned(t testing.TB, k *sign.Key, text string) []byte {
	t.Helper()
	var secret, b bytes.Buffer
	must(t, k.ExportSecret(&secret, false))
	list, err := openpgp.ReadKeyRing(&secret)
	must(t, err)
	w, err := clearsign.Encode(&b, list[0].PrivateKey, &packet.Config{Time: epoch})
	must(t, err)
	_, err = w.Write([]byte(text))
	must(t, err)
	must(t, w.Close())
	return b.Bytes()
}

// TestAttacks edits an image that A has signed, and one that A and B have. The first verdict is that of Verify with the keys of A and B, the others those of
// policies: A is on the whitelist; A and B are wanted. What a policy accepts is mounted from the same bytes as before the edit.
func TestAttacks(t *testing.T) {
	a, b, stranger := newKey(t, "A"), newKey(t, "B"), newKey(t, "stranger")
	read := func(path string) []byte {
		data, err := os.ReadFile(path)
		must(t, err)
		return data
	}
	byA, byBoth := read(signedBy(t, newImage(t), a)), read(signedBy(t, newImage(t), a, b))
	byStranger := read(signedBy(t, newImage(t), stranger))
	const definition, config, partition, signature, second = 0, 1, 2, 3, 4
	at := func(n, field int) int { return table + n*slot + field }
	do := func(edits ...func([]byte) []byte) func([]byte) []byte {
		return func(b []byte) []byte {
			for _, e := range edits {
				b = e(b)
			}
			return b
		}
	}
	all := func(edit func(d int, n int) func([]byte) []byte) func([]byte) []byte {
		return func(b []byte) []byte {
			for n := range 4 {
				b = edit(table+n*slot, n)(b)
			}
			return b
		}
	}
	legacy := func(b []byte) []byte {
		sum := make([]byte, 48)
		return replace(signature, clearSigned(t, a, "SIFHASH:\n"+hex.EncodeToString(sum)))(b)
	}
	const ok, no = true, false
	tests := []struct {
		name                      string
		image                     []byte
		edit                      func([]byte) []byte
		verify, whitelist, strict bool
	}{
		{"nothing", byA, do(), ok, ok, no},
		{"nothing, two signatures", byBoth, do(), ok, ok, ok},

		// What the format does not cover: none of it says what is mounted.
		{"name of signature", byA, flip(at(signature, fieldName)), ok, ok, no},
		{"time of signature", byA, flip(at(signature, fieldCreated)), ok, ok, no},
		{"offset", byA, func(b []byte) []byte { return replace(definition, bytes.Clone(object(b, definition)))(b) }, ok, ok, no},
		{"size with padding", byA, flip(at(definition, fieldPadded)), ok, ok, no},
		{"time of modification", byA, flip(at(partition, fieldModified)), ok, ok, no},
		{"architecture in header", byA, flip(46), ok, ok, no},
		{"times in header", byA, do(flip(64), flip(72)), ok, ok, no},
		{"data section in header", byA, set64(120, 1), ok, ok, no},
		{"all IDs", byA, all(func(d, n int) func([]byte) []byte { return set32(d+5, uint32(10+n)) }), ok, ok, no},
		{"group number", byA, do(all(func(d, n int) func([]byte) []byte {
			return func(b []byte) []byte {
				if n == signature {
					return set32(d+fieldLink, 0xf0000007)(b)
				}
				return set32(d+fieldGroup, 0xf0000007)(b)
			}
		})), ok, ok, no},
		{"trailing data", byA, func(b []byte) []byte { return append(b, "evil"...) }, ok, ok, no},
		{"gap before the partition", byA, flip(imageOffset - 1), ok, ok, no},

		// CVE-2020-13847: header and descriptors.
		{"launch script", byA, flip(3), no, no, no},
		{"ID of the file", byA, flip(50), no, no, no},
		{"role of the partition", byA, set32(at(partition, fieldExtra)+4, uint32(sif.PartitionData)), no, no, no},
		{"file system of the partition", byA, set32(at(partition, fieldExtra), uint32(sif.FSExt3)), no, no, no},
		{"architecture of the partition", byA, flip(at(partition, fieldExtra) + 8), no, no, no},
		{"name", byA, flip(at(config, fieldName)), no, no, no},
		{"type", byA, set32(at(definition, fieldType), uint32(sif.DataGeneric)), no, no, no},
		{"data of the partition", byA, flip(imageOffset + 5), no, no, no},
		{"data of the configuration", byA, func(b []byte) []byte { return flip(int(get64(b, at(config, fieldOffset))))(b) }, no, no, no},
		{"two objects exchanged", byA, func(b []byte) []byte {
			x, y := slices.Clone(b[at(definition, fieldOffset):][:16]), slices.Clone(b[at(config, fieldOffset):][:16])
			copy(b[at(definition, fieldOffset):], y)
			copy(b[at(config, fieldOffset):], x)
			return b
		}, no, no, no},

		// CVE-2020-13846: objects without a signature.
		{"object added to the group", byA, appendObject(definition, []byte("evil"), nil), no, no, no},
		{"object added to another group", byA, appendObject(definition, []byte("evil"), func(d []byte) { set32(fieldGroup, 0xf0000002)(d) }), no, no, no},
		{"object added to no group", byA, appendObject(definition, []byte("evil"), func(d []byte) { set32(fieldGroup, 0xf0000000)(d) }), no, no, no},
		{"second primary partition", byA, appendObject(partition, []byte("hsqsevil"), func(d []byte) { set32(fieldGroup, 0xf0000002)(d) }), no, no, no},
		{"object removed", byA, remove(config), no, no, no},

		// Signatures.
		{"signature removed", byA, remove(signature), no, no, no},
		{"one of two removed", byBoth, remove(second), ok, ok, no},
		{"the other one removed", byBoth, remove(signature), ok, no, no},
		{"foreign signature added", byA, appendObject(signature, bytes.Clone(object(byStranger, signature)), func(d []byte) {
			copy(d[fieldExtra:], byStranger[at(signature, fieldExtra):][:32])
		}), ok, ok, no},
		{"foreign signature that claims to be A's", byA, do(remove(signature), func(b []byte) []byte {
			d := at(signature, 0)
			copy(b[d:d+slot], byA[d:])
			set64(free, get64(b, free)-1)(b)
			return replace(signature, object(byStranger, signature))(b)
		}), no, no, no},
		{"signed by a stranger only", byStranger, do(), no, no, no},
		{"copies of the signature", byA, func(b []byte) []byte {
			for range 40 {
				b = appendObject(signature, bytes.Clone(object(byA, signature)), nil)(b)
			}
			return b
		}, ok, ok, no},
		{"B's signature says it is A's", byBoth, func(b []byte) []byte {
			copy(b[at(second, fieldExtra):], b[at(signature, fieldExtra):][:32])
			return b
		}, ok, ok, no}, // it counts for nobody
		{"signature of the old format instead", byA, legacy, no, no, no}, // downgrade
		{"signed text that is no message", byA, replace(signature, clearSigned(t, a, "approved")), no, no, no},
		{"signed message about nothing", byA, replace(signature, clearSigned(t, a, `{"version":1,"header":{},"objects":[]}`)), no, no, no},
		{"text before the signed message", byA, func(b []byte) []byte { // CVE-2019-11841 and kin
			return replace(signature, append([]byte("Hash: none\n\n{}\n"), object(b, signature)...))(b)
		}, no, no, no},
		{"two messages in one signature", byA, func(b []byte) []byte {
			return replace(signature, append(bytes.Clone(object(b, signature)), object(b, signature)...))(b)
		}, no, no, no},
		{"Hash header that lies", byA, func(b []byte) []byte {
			return replace(signature, bytes.Replace(bytes.Clone(object(b, signature)), []byte("Hash: SHA256"), []byte("Hash: SHA512"), 1))(b)
		}, ok, ok, no}, // the header is a hint; what counts is in the signature
		{"signature moved into a group", byA, set32(at(signature, fieldGroup), 0xf0000001), no, no, no},
		{"signature linked to another group", byA, set32(at(signature, fieldLink), 0xf0000002), no, no, no},

		// Geometry.
		{"number of descriptors", byA, set64(total, 1<<40), no, no, no},
		{"negative number of descriptors", byA, set64(total, 1<<64-1), no, no, no},
		{"size of signature", byA, set64(at(signature, fieldSize), 1<<40), no, no, no},
		{"negative size of signature", byA, set64(at(signature, fieldSize), 1<<64-1), no, no, no},
		{"truncated", byA, func(b []byte) []byte { return b[:imageOffset+100] }, no, no, no},
		{"empty", byA, func([]byte) []byte { return nil }, no, no, no},
	}
	ring := sign.NewKeyring(a, b)
	whitelist := newPolicy(t, policy.Config{Default: policy.Rule{Mode: policy.ModeWhitelist, Signers: []string{fp(a)}}, Keyring: ring})
	strict := newPolicy(t, policy.Config{Default: policy.Rule{Mode: policy.ModeStrict, Signers: []string{fp(a), fp(b)}}, Keyring: ring})
	original := bytes.Clone(object(byA, partition))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := edit(t, newImage(t), func([]byte) []byte { return tt.edit(slices.Clone(tt.image)) })
			_, err := sign.VerifyPath(t.Context(), path, &sign.VerifyOptions{Keyring: ring})
			if (err == nil) != tt.verify {
				t.Errorf("Verify: %v", err)
			}
			offset, size := primary(path)
			for name, p := range map[string]*policy.Policy{"whitelist": whitelist, "strict": strict} {
				want := tt.whitelist
				if name == "strict" {
					want = tt.strict
				}
				d, err := checkPart(t, p, path, offset, size)
				if (err == nil) != want || err != nil && !errors.Is(err, policy.ErrDenied) {
					t.Errorf("%s: %v", name, err)
				}
				if err != nil {
					continue
				}
				if d.Warning != nil {
					t.Errorf("%s: %v", name, d.Warning)
				}
				if data := read(path); !bytes.Equal(data[offset:offset+size], original) {
					t.Errorf("%s: other bytes are mounted", name)
				}
			}
			t.Logf("%-40s verify %-5v whitelist %-5v strict %v", strings.TrimSpace(tt.name), tt.verify, tt.whitelist, tt.strict)
		})
	}
}

// primary is what a runtime would mount.
func primary(path string) (offset, size int64) {
	f, err := sif.Open(path)
	if err != nil {
		return imageOffset, imageSize
	}
	defer f.Close()
	o, err := f.Primary()
	if err != nil {
		return imageOffset, imageSize
	}
	return o.Offset, o.Size
}
