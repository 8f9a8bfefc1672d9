package ldcache_test

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"hpcimg/internal/ldcache"
	"hpcimg/internal/oracle"
)

// build writes a cache of the new layout.
func build(entries ...ldcache.Entry) []byte {
	le := binary.LittleEndian
	b := append([]byte("glibc-ld.so.cache1.1"), make([]byte, 28)...)
	le.PutUint32(b[20:], uint32(len(entries)))
	at := len(b) + 24*len(entries)
	var table string
	for _, e := range entries {
		b = le.AppendUint32(b, uint32(e.Flags))
		b = le.AppendUint32(b, uint32(at+len(table)))
		table += e.Name + "\x00"
		b = le.AppendUint32(b, uint32(at+len(table)))
		table += e.Path + "\x00"
		b = append(b, make([]byte, 12)...)
	}
	return append(b, table...)
}

func TestParse(t *testing.T) {
	t.Parallel()
	want := ldcache.Entry{Name: "libc.so.6", Path: "/lib/libc.so.6", Flags: 0x303}
	cache := build(want)
	old := append([]byte("ld.so-1.7.0\x00\x01\x00\x00\x00"), make([]byte, 12+4)...)
	for name, data := range map[string][]byte{"new": cache, "old and new": append(old, cache...)} {
		got, err := ldcache.Parse(data)
		if err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestDamaged(t *testing.T) {
	t.Parallel()
	cache := build(ldcache.Entry{Name: "a", Path: "/a"})
	many := append([]byte(nil), cache...)
	binary.LittleEndian.PutUint32(many[20:], 1<<31)
	for name, data := range map[string][]byte{
		"empty": nil, "magic": []byte("ELF"), "short": cache[:30], "many": many, "no end": cache[:len(cache)-1],
		"old": []byte("ld.so-1.7.0\x00\xff\xff\xff\xff"), "short old": []byte("ld.so-1.7.0\x00"),
	} {
		if _, err := ldcache.Parse(data); !errors.Is(err, ldcache.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMemory: many entries that share a long string take no more memory than their number.
func TestMemory(t *testing.T) {
	const n, size = 20_000, 4000
	cache := build(make([]ldcache.Entry, n)...)
	at := 48 + 24*n
	cache = append(cache[:at], strings.Repeat("x", size)+"\x00"...)
	for i := range n {
		binary.LittleEndian.PutUint32(cache[48+24*i+4:], uint32(at))
		binary.LittleEndian.PutUint32(cache[48+24*i+8:], uint32(at))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	entries, err := ldcache.Parse(cache)
	runtime.ReadMemStats(&after)
	if err != nil || len(entries) != n || len(entries[n-1].Path) != size {
		t.Fatal(len(entries), err)
	}
	if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(len(cache))*8; got > limit {
		t.Errorf("%d bytes for a cache of %d", got, len(cache))
	}
}

// TestHost compares with ldconfig -p.
func TestHost(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("/etc/ld.so.cache")
	oracle.Need(t, oracle.NeedTools, err)
	entries, err := ldcache.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(oracle.Run(t, "ldconfig", "-p")) {
		if name, path, ok := strings.Cut(strings.TrimSpace(line), " => "); ok {
			want = append(want, strings.Fields(name)[0]+" "+path)
		}
	}
	if len(entries) != len(want) {
		t.Fatalf("%d libraries, ldconfig has %d", len(entries), len(want))
	}
	for i, e := range entries {
		if got := e.Name + " " + e.Path; got != want[i] {
			t.Errorf("got %s, want %s", got, want[i])
		}
	}
}

func FuzzParse(f *testing.F) {
	cache := build(ldcache.Entry{Name: "libc.so.6", Path: "/lib/libc.so.6", Flags: 3}, ldcache.Entry{Name: "a", Path: "b"})
	f.Add(cache)
	f.Add(append(append([]byte("ld.so-1.7.0\x00\x01\x00\x00\x00"), make([]byte, 16)...), cache...))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := ldcache.Parse(data)
		if err != nil {
			if !errors.Is(err, ldcache.ErrFormat) {
				t.Errorf("error %v", err)
			}
			return
		}
		if len(entries) > len(data)/24 {
			t.Errorf("%d entries in %d bytes", len(entries), len(data))
		}
	})
}
