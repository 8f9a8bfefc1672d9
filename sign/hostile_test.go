package sign_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"slices"
	"testing"

	"hpcimg/sif"
	"hpcimg/sign"
)

// Layout, stated here again so that a mistake in it shows.
const (
	table, slot = 4096, 585

	fieldType, fieldGroup, fieldLink, fieldOffset, fieldSize, fieldPadded, fieldCreated, fieldModified, fieldUID = 0, 9, 13, 17, 25, 33, 41, 49, 57
	fieldName, fieldExtra                                                                                        = 73, 201
)

func set64(off int, v uint64) func([]byte) []byte {
	return func(b []byte) []byte { binary.LittleEndian.PutUint64(b[off:], v); return b }
}

func set32(off int, v uint32) func([]byte) []byte {
	return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[off:], v); return b }
}

func flip(off int) func([]byte) []byte {
	return func(b []byte) []byte { b[off] ^= 1; return b }
}

func signedImage(t testing.TB) ([]byte, *sign.Key) {
	t.Helper()
	k := generate(t, sign.KeyOptions{Time: epoch()})
	path := newImage(t)
	must(t, sign.Sign(t.Context(), path, k, &sign.Options{Time: epoch()}))
	data, err := os.ReadFile(path)
	must(t, err)
	return data, k
}

func verifyBytes(t testing.TB, data []byte, opts *sign.VerifyOptions) (*sign.Result, error) {
	t.Helper()
	f, err := sif.NewFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	return sign.Verify(t.Context(), f, opts)
}

// TestCoverage records what a signature notices and what it does not. docs/adr/0006 has the same table.
func TestCoverage(t *testing.T) {
	image, k := signedImage(t)
	const noticed, unnoticed, refused = "noticed", "unnoticed", "refused"
	definition, config, partition, signature := table, table+slot, table+2*slot, table+3*slot
	move := func(b []byte) []byte {
		// The definition moves to the end of the file.
		off := binary.LittleEndian.Uint64(b[definition+fieldOffset:])
		size := binary.LittleEndian.Uint64(b[definition+fieldSize:])
		binary.LittleEndian.PutUint64(b[definition+fieldOffset:], uint64(len(b)))
		return append(b, b[off:off+size]...)
	}
	regroup := func(b []byte) []byte {
		for _, d := range []int{definition, config, partition} {
			set32(d+fieldGroup, 0xf0000007)(b)
		}
		return set32(signature+fieldLink, 0xf0000007)(b)
	}
	renumber := func(b []byte) []byte {
		for i, d := range []int{definition, config, partition, signature} {
			set32(d+5, uint32(10+i))(b)
		}
		return b
	}
	tests := []struct {
		name   string
		want   string
		mutate func([]byte) []byte
	}{
		{"nothing", unnoticed, func(b []byte) []byte { return b }},
		{"launch script", noticed, flip(3)},
		{"architecture in header", unnoticed, flip(46)},
		{"ID of the file", noticed, flip(50)},
		{"time of creation in header", unnoticed, flip(64)},
		{"time of modification in header", unnoticed, flip(72)},
		{"data section in header", unnoticed, set64(120, 1)},
		{"type of object", noticed, set32(definition+fieldType, uint32(sif.DataGeneric))},
		{"all IDs of the group", unnoticed, renumber},
		{"group number", unnoticed, regroup},
		{"group of one object", noticed, set32(definition+fieldGroup, 0xf0000002)},
		{"no group for one object", noticed, set32(definition+fieldGroup, 0xf0000000)},
		{"link of object", noticed, set32(definition+fieldLink, 2)},
		{"offset of object", unnoticed, move},
		{"size of object", noticed, set64(definition+fieldSize, 5)},
		{"size with padding", unnoticed, flip(definition + fieldPadded)},
		{"time of creation of object", noticed, flip(definition + fieldCreated)},
		{"time of modification of object", unnoticed, flip(definition + fieldModified)},
		{"owner of object", noticed, flip(definition + fieldUID)},
		{"name of object", noticed, flip(config + fieldName)},
		{"file system of partition", noticed, set32(partition+fieldExtra, uint32(sif.FSExt3))},
		{"role of partition", noticed, set32(partition+fieldExtra+4, uint32(sif.PartitionData))},
		{"architecture of partition", noticed, flip(partition + fieldExtra + 8)},
		{"data of definition", noticed, flip(32176)},
		{"data of partition", noticed, flip(32768)},
		{"name of signature", unnoticed, flip(signature + fieldName)},
		{"time of signature", unnoticed, flip(signature + fieldCreated)},
		{"signer in descriptor of signature", noticed, flip(signature + fieldExtra + 4)},
		{"link of signature", noticed, set32(signature+fieldLink, 0xf0000002)},
		{"gap before partition", unnoticed, flip(32767)},
		{"trailing data", unnoticed, func(b []byte) []byte { return append(b, "more"...) }},
		{"object removed", noticed, func(b []byte) []byte {
			clear(b[config : config+slot])
			return set64(80, binary.LittleEndian.Uint64(b[80:])+1)(b)
		}},
		{"signature removed", noticed, func(b []byte) []byte {
			clear(b[signature : signature+slot])
			return set64(80, binary.LittleEndian.Uint64(b[80:])+1)(b)
		}},
		{"objects exchanged", noticed, func(b []byte) []byte {
			for i := range 16 { // offset and size
				b[definition+fieldOffset+i], b[config+fieldOffset+i] = b[config+fieldOffset+i], b[definition+fieldOffset+i]
			}
			return b
		}},
		{"object added in another group", noticed, addObject(2)},
		{"object added to the group", noticed, addObject(1)},
		{"object added to no group", noticed, addObject(0)},
		{"total of descriptors", refused, set64(88, 1<<40)},
		{"size of signature", refused, set64(signature+fieldSize, 1<<40)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := tt.mutate(slices.Clone(image))
			result, err := verifyBytes(t, data, trust(k))
			got := unnoticed
			switch {
			case errors.Is(err, sif.ErrFormat) || errors.Is(err, sif.ErrLimit):
				got = refused
			case err != nil:
				got = noticed
			}
			if got != tt.want {
				t.Errorf("%s (%v), want %s", got, err, tt.want)
			}
			if got != refused && result == nil {
				t.Error("no result")
			}
			// What they accept is not more than what we accept.
			if f, err := sif.NewFile(bytes.NewReader(data), int64(len(data))); err == nil && got == noticed {
				if integrityVerify(t, f, sign.NewKeyring(k)) == nil {
					t.Log("sylabs/sif accepts it")
				}
			}
		})
	}
}

func addObject(group uint32) func([]byte) []byte {
	return func(b []byte) []byte {
		d := table + 4*slot
		set32(d, uint32(sif.DataGeneric))(b)
		b[d+4] = 1
		set32(d+5, 5)(b)
		set32(d+fieldGroup, 0xf0000000|group)(b)
		set64(d+fieldOffset, uint64(len(b)))(b)
		set64(d+fieldSize, 4)(b)
		set64(80, binary.LittleEndian.Uint64(b[80:])-1)(b)
		return append(b, "evil"...)
	}
}

// addSignature appends a signature object with the given contents and the extra field of the first one.
func addSignature(contents []byte) func([]byte) []byte {
	return func(b []byte) []byte {
		free := binary.LittleEndian.Uint64(b[80:])
		n := 48 - int(free)
		d := table + n*slot
		copy(b[d:d+slot], b[table+3*slot:table+4*slot])
		set32(d+5, uint32(n+1))(b)
		set64(d+fieldOffset, uint64(len(b)))(b)
		set64(d+fieldSize, uint64(len(contents)))(b)
		set64(80, free-1)(b)
		return append(b, contents...)
	}
}

func TestManySignatures(t *testing.T) {
	image, k := signedImage(t)
	d := table + 3*slot
	original := bytes.Clone(image[binary.LittleEndian.Uint64(image[d+fieldOffset:]):][:binary.LittleEndian.Uint64(image[d+fieldSize:])])

	many := slices.Clone(image)
	for range 44 {
		many = addSignature(original)(many)
	}
	if result, err := verifyBytes(t, many, trust(k)); err != nil || len(result.Signatures) != 45 {
		t.Errorf("45 copies: %v", err)
	}
	// A signature by somebody unknown, or that is none at all, is reported and does not harm.
	strangerImage, _ := signedImage(t)
	stranger := strangerImage[binary.LittleEndian.Uint64(strangerImage[d+fieldOffset:]):][:binary.LittleEndian.Uint64(strangerImage[d+fieldSize:])]
	for name, contents := range map[string][]byte{
		"stranger": stranger, "garbage": []byte("garbage"), "empty": nil,
		"text before": append([]byte("text\n"), original...), "text after": append(slices.Clone(original), "\ntext"...),
		"JSON":        []byte(`{"payloadType":"application/vnd.sylabs.sif-metadata+json","payload":"e30=","signatures":[{"sig":"AA=="}]}`),
		"two in one":  append(slices.Clone(original), original...),
		"broken PGP":  bytes.Replace(original, []byte("sha256:"), []byte("sha256:0"), 1),
		"broken base": bytes.Replace(original, []byte("\n="), []byte("\n!"), 1),
	} {
		result, err := verifyBytes(t, addSignature(contents)(slices.Clone(image)), trust(k))
		if err != nil || len(result.Signatures) != 2 || !result.Signatures[0].Trusted {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s := result.Signatures[1]; name != "broken base" && (s.Trusted || s.Err == nil || len(s.Covers) != 0) {
			t.Errorf("%s: %+v", name, s)
		}
	}
	// One that a trusted key made, of another file, does.
	path := newImage(t)
	must(t, os.WriteFile(path, flip(32176)(must2(os.ReadFile(path))(t)), 0o755))
	must(t, sign.Sign(t.Context(), path, k, nil))
	other := must2(os.ReadFile(path))(t)
	contents := other[binary.LittleEndian.Uint64(other[d+fieldOffset:]):][:binary.LittleEndian.Uint64(other[d+fieldSize:])]
	_, err := verifyBytes(t, addSignature(contents)(slices.Clone(image)), trust(k))
	if e, ok := errors.AsType[*sign.VerifyError](err); !ok || e.ObjectID != 1 || e.GroupID != 1 {
		t.Errorf("signature of another file: %v", err)
	}
	huge := addSignature(make([]byte, 1<<20+1))(slices.Clone(image))
	if _, err := verifyBytes(t, huge, trust(k)); !errors.Is(err, sign.ErrLimit) {
		t.Errorf("huge signature: %v", err)
	}
}

func must2(data []byte, err error) func(testing.TB) []byte {
	return func(t testing.TB) []byte { t.Helper(); must(t, err); return data }
}

// TestMutations flips every byte of a sample. Nothing panics or allocates much, and what we accept sylabs/sif accepts too.
func TestMutations(t *testing.T) {
	image, k := signedImage(t)
	var before, after runtime.MemStats
	data := make([]byte, len(image))
	mutate := func(off int, xor byte) {
		copy(data, image)
		data[off] ^= xor
		runtime.ReadMemStats(&before)
		_, err := verifyBytes(t, data, trust(k))
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
			t.Fatalf("%#x at %#x: %d bytes allocated", xor, off, grown)
		}
		if err != nil {
			return
		}
		f, err := sif.NewFile(bytes.NewReader(data), int64(len(data)))
		must(t, err)
		if err := integrityVerify(t, f, sign.NewKeyring(k)); err != nil {
			t.Errorf("%#x at %#x: we accept it, sylabs/sif says %v", xor, off, err)
		}
	}
	for off := range 128 {
		mutate(off, 0xff)
		mutate(off, 1)
	}
	for off := table; off < table+5*slot; off += 7 {
		mutate(off, 0x80)
	}
	signature := int(binary.LittleEndian.Uint64(image[table+3*slot+fieldOffset:]))
	for off := signature; off < len(image); off += 3 {
		mutate(off, 1)
	}
}

func FuzzVerify(f *testing.F) {
	image, k := signedImage(f)
	d := table + 3*slot
	start := int(binary.LittleEndian.Uint64(image[d+fieldOffset:]))
	f.Add(image[:128], image[table:table+4*slot], image[start:])
	f.Add(image[:128], image[table:table+4*slot], []byte(`{"payloadType":"application/vnd.sylabs.sif-metadata+json","payload":"e30=","signatures":[]}`))
	c := openCorpus(f)
	opts := trust(k, c.key(f))
	opts.PublicKeys = append(opts.PublicKeys, c.public(f, "ed25519"), c.public(f, "rsa"), c.public(f, "ecdsa"))
	opts.Legacy = true
	f.Fuzz(func(t *testing.T, header, descriptors, signature []byte) {
		data := slices.Clone(image[:start])
		copy(data[:128], header)
		copy(data[table:32176], descriptors)
		data = append(data, signature...)
		result, err := verifyBytes(t, data, opts)
		if err != nil {
			return
		}
		// Success means: every object is covered by a signature of a key that is trusted.
		for _, o := range result.Objects {
			if !o.Covered() {
				t.Fatalf("object %d is not covered", o.ID)
			}
		}
		if !slices.ContainsFunc(result.Signatures, func(s sign.Signature) bool { return s.Trusted && s.Err == nil }) {
			t.Fatal("no trusted signature")
		}
	})
}

func FuzzReadKeyring(f *testing.F) {
	k := generate(f, sign.KeyOptions{Time: epoch()})
	var b, a bytes.Buffer
	must(f, k.ExportSecret(&b, false))
	must(f, k.ExportPublic(&a, true))
	f.Add(b.Bytes())
	f.Add(a.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		ring, err := sign.ReadKeyring(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, k := range ring.Keys() {
			if _, err := sign.ParseFingerprint(string(k.Fingerprint())); err != nil && len(k.Fingerprint()) >= 40 {
				t.Fatal(err)
			}
			_ = k.CanSign()
		}
	})
}
