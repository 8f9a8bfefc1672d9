package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"hpcimg/mount/internal/wire"
)

// message is a request: a header with the length of all of it, and a body.
func message(op uint32, body []byte) []byte {
	b := make([]byte, wire.InHeaderSize, wire.InHeaderSize+len(body))
	binary.NativeEndian.PutUint32(b, uint32(len(b)+len(body)))
	for i, v := range []uint32{op, 7, 0, 9, 0, 1000, 100, 42} {
		binary.NativeEndian.PutUint32(b[4+4*i:], v)
	}
	return append(b, body...)
}

func TestParse(t *testing.T) {
	t.Parallel()
	r, err := wire.Parse(message(wire.OpLookup, []byte("name\x00rest")))
	if err != nil || r.Op != wire.OpLookup || r.Unique != 7 || r.Node != 9 || r.UID != 1000 || r.GID != 100 || r.PID != 42 || string(r.Body) != "name\x00rest" {
		t.Errorf("%+v, %v", r, err)
	}
	if name, err := r.Name(0); name != "name" || err != nil {
		t.Errorf("name %q, %v", name, err)
	}
}

// TestTruncated cuts every kind of request at every byte: with the length that it says, and with that of what is left.
func TestTruncated(t *testing.T) {
	t.Parallel()
	for op := range uint32(60) {
		whole := message(op, append([]byte("a name, and what else there is in a body of 40 bytes"), 0))
		for n := range len(whole) {
			if _, err := wire.Parse(whole[:n]); !errors.Is(err, wire.ErrRequest) {
				t.Fatalf("operation %d cut at %d: %v", op, n, err)
			}
			part := bytes.Clone(whole[:n])
			if n >= 4 {
				binary.NativeEndian.PutUint32(part, uint32(n))
			}
			r, err := wire.Parse(part)
			if n < wire.InHeaderSize {
				if !errors.Is(err, wire.ErrRequest) {
					t.Fatalf("operation %d of %d bytes: %v", op, n, err)
				}
				continue
			}
			if err != nil || len(r.Body) != n-wire.InHeaderSize {
				t.Fatalf("operation %d of %d bytes: body of %d, %v", op, n, len(r.Body), err)
			}
			check(t, &r)
		}
	}
}

// TestLength: a message longer or shorter than it says is none.
func TestLength(t *testing.T) {
	t.Parallel()
	for _, says := range []uint32{0, 1, wire.InHeaderSize - 1, wire.InHeaderSize, wire.InHeaderSize + 4, wire.InHeaderSize + 6, 1 << 31, 1<<32 - 1} {
		msg := message(wire.OpRead, make([]byte, 5))
		binary.NativeEndian.PutUint32(msg, says)
		if _, err := wire.Parse(msg); !errors.Is(err, wire.ErrRequest) {
			t.Errorf("says %d: %v", says, err)
		}
	}
	if _, err := wire.Parse(message(wire.OpRead, make([]byte, 1<<20))); err != nil {
		t.Errorf("1 MiB: %v", err)
	}
}

// check looks at all that can be read from a body: what is not there is an error of the package, and what is comes from it.
func check(t *testing.T, r *wire.Request) {
	t.Helper()
	for _, at := range []int{0, wire.XattrSizeLen, 39, 1 << 30} {
		name, err := r.Name(at)
		switch {
		case err != nil && (!errors.Is(err, wire.ErrRequest) || name != ""):
			t.Errorf("name at %d: %q, %v", at, name, err)
		case err == nil && !bytes.HasPrefix(r.Body[at:], append([]byte(name), 0)):
			t.Errorf("name at %d: %q is not in the body", at, name)
		case err != nil && at <= len(r.Body) && bytes.IndexByte(r.Body[at:], 0) >= 0:
			t.Errorf("name at %d: %v", at, err)
		}
	}
	rg, err := r.Range()
	if (err == nil) != (len(r.Body) >= 24) || err != nil && (!errors.Is(err, wire.ErrRequest) || rg != (wire.Range{})) {
		t.Errorf("range of a body of %d: %+v, %v", len(r.Body), rg, err)
	}
	in, err := r.Init()
	if (err == nil) != (len(r.Body) >= 16) || err != nil && (!errors.Is(err, wire.ErrRequest) || in != (wire.Init{})) {
		t.Errorf("init of a body of %d: %+v, %v", len(r.Body), in, err)
	}
	size, err := r.XattrSize()
	if (err == nil) != (len(r.Body) >= wire.XattrSizeLen) || err != nil && (!errors.Is(err, wire.ErrRequest) || size != 0) {
		t.Errorf("size of a body of %d: %d, %v", len(r.Body), size, err)
	}
	if r.Changes() && r.NoReply() {
		t.Errorf("operation %d both changes something and wants no reply", r.Op)
	}
}

// FuzzRequest reads arbitrary messages. What is accepted is as long as it says, and its header, written again, is the same.
func FuzzRequest(f *testing.F) {
	for op := range uint32(60) {
		f.Add(message(op, nil))
	}
	f.Add(message(wire.OpLookup, []byte("name\x00")))
	f.Add(message(wire.OpGetxattr, []byte("\x10\x00\x00\x00\x00\x00\x00\x00user.a\x00")))
	f.Add(message(wire.OpRead, make([]byte, 40)))
	f.Add(message(wire.OpInit, []byte{7, 0, 0, 0, 40, 0, 0, 0, 0, 0, 2, 0, 255, 255, 255, 255}))
	f.Add(make([]byte, 39))
	f.Fuzz(func(t *testing.T, msg []byte) {
		r, err := wire.Parse(msg)
		if err != nil {
			if !errors.Is(err, wire.ErrRequest) {
				t.Errorf("error %v", err)
			}
			return
		}
		check(t, &r)
		b := binary.NativeEndian.AppendUint32(nil, uint32(len(msg)))
		b = binary.NativeEndian.AppendUint32(b, r.Op)
		b = binary.NativeEndian.AppendUint64(b, r.Unique)
		b = binary.NativeEndian.AppendUint64(b, r.Node)
		for _, v := range []uint32{r.UID, r.GID, r.PID} {
			b = binary.NativeEndian.AppendUint32(b, v)
		}
		if !bytes.Equal(b, msg[:len(b)]) || !bytes.Equal(r.Body, msg[wire.InHeaderSize:]) {
			t.Errorf("%+v is not what the message says", r)
		}
	})
}

// FuzzDirent fills directories. No entry goes beyond the limit, one that does not fit changes nothing, and a reader that
// trusts only the lengths finds them all again.
func FuzzDirent(f *testing.F) {
	f.Add("a", "longer name", uint16(200), true)
	f.Add("", "\xff/\x00", uint16(16), false)
	f.Fuzz(func(t *testing.T, a, b string, limit uint16, plus bool) {
		msg := wire.AppendHeader(nil)
		var want []string
		for i, name := range []string{a, b, a + b} {
			var next []byte
			var ok bool
			if plus {
				next, ok = wire.AppendDirentPlus(msg, int(limit), name, 1, uint64(i), 0o100644, 5, &wire.Attr{Size: 1}, wire.Valid{Entry: 1})
			} else {
				next, ok = wire.AppendDirent(msg, int(limit), name, 1, uint64(i), 0o040755)
			}
			if ok && len(next) > int(limit) || !ok && !bytes.Equal(next, msg) {
				t.Fatalf("entry of %d bytes, limit %d: %v, %d bytes", len(name), limit, ok, len(next))
			}
			if ok {
				want = append(want, name)
			}
			msg = next
		}
		rest := msg[wire.OutHeaderSize:]
		for _, name := range want {
			if plus {
				rest = rest[128:]
			}
			n := int(binary.NativeEndian.Uint32(rest[16:]))
			if string(rest[24:24+n]) != name {
				t.Fatalf("entry %q, want %q", rest[24:24+n], name)
			}
			rest = rest[(24+n+7)&^7:]
		}
		if len(rest) != 0 {
			t.Errorf("%d bytes more", len(rest))
		}
	})
}
