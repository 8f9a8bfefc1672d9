package layer_test

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hpcimg/convert/internal/layer"
)

func randomEntries(r *rand.Rand, n int) []layer.Entry {
	all := make([]layer.Entry, n)
	for i := range all {
		e := &all[i]
		e.Kind = layer.Kind(r.IntN(int(layer.Opaque) + 1))
		e.Path = fmt.Sprintf("usr/%s/%d/file-%d", strings.Repeat("d", r.IntN(200)), r.IntN(3), i)
		e.Mode = fs.FileMode(r.IntN(0o1000)) | fs.ModeSetuid*fs.FileMode(r.IntN(2))
		e.UID, e.GID, e.ModTime = r.Uint32(), r.Uint32(), r.Uint32()
		switch e.Kind {
		case layer.File:
			e.Size = r.Int64()
		case layer.Symlink, layer.HardLink:
			e.Link = strings.Repeat("../", r.IntN(1000)) + "x"
		case layer.Char, layer.Block:
			e.Major, e.Minor = r.Uint32(), r.Uint32()
		}
		if r.IntN(5) == 0 {
			e.Xattrs = map[string]string{"user.a": strings.Repeat("\x00", r.IntN(30_000)), "user.b": ""}
		}
	}
	return all
}

// What a list returns is what was appended, in order and in any other.
func TestList(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	want := randomEntries(r, 3000)
	l := layer.ListOf(want...)
	if l.Len() != len(want) {
		t.Fatalf("%d entries, not %d", l.Len(), len(want))
	}
	n := 0
	for i, e := range l.All() {
		if d := cmp.Diff(want[i], *e); d != "" {
			t.Fatalf("entry %d: %s", i, d)
		}
		n++
	}
	if n != len(want) {
		t.Errorf("%d entries yielded", n)
	}
	for i, k := range l.Kinds() {
		if n--; k != want[i].Kind {
			t.Fatalf("entry %d: kind %d, not %d", i, k, want[i].Kind)
		}
	}
	if n != 0 {
		t.Errorf("%d kinds too few", n)
	}
	c := layer.Cursor{List: l}
	at := 0
	for range 5000 {
		if at++; r.IntN(3) == 0 || at >= len(want) {
			at = r.IntN(len(want))
		}
		if d := cmp.Diff(want[at], *c.At(at)); d != "" {
			t.Fatalf("entry %d: %s", at, d)
		}
	}
	for range new(layer.List).All() {
		t.Error("an empty list has an entry")
	}
}

// What a decoder returns is what was encoded, one behind the other and from a new beginning.
func TestCodec(t *testing.T) {
	want := randomEntries(rand.New(rand.NewPCG(3, 4)), 500)
	var d layer.Decoder
	for range 2 {
		var c layer.Encoder
		var b []byte
		for i := range want {
			b = c.Append(b, &want[i])
		}
		d.Reset(b)
		for i := range want {
			if diff := cmp.Diff(want[i], *d.Next()); diff != "" {
				t.Fatalf("entry %d: %s", i, diff)
			}
		}
		want = want[100:]
	}
}
