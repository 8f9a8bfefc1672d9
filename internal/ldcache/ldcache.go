package ldcache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// ErrFormat says that the input is no cache, or a damaged one.
var ErrFormat = errors.New("ldcache: not a valid ld.so.cache")

// Entry is a library.
type Entry struct {
	Name  string // SONAME: libc.so.6
	Path  string
	Flags int32 // kind and machine, as glibc numbers them
}

const (
	magicOld   = "ld.so-1.7.0\x00"
	magicNew   = "glibc-ld.so.cache1.1"
	headerOld  = 16
	entryOld   = 12
	headerNew  = 48
	entryNew   = 24
	maxString  = 4096
	maxEntries = 1 << 20
)

// Parse reads a cache.
func Parse(data []byte) ([]Entry, error) {
	if bytes.HasPrefix(data, []byte(magicOld)) {
		if len(data) < headerOld {
			return nil, damaged("header")
		}
		skip := uint64(headerOld) + entryOld*uint64(order(data).Uint32(data[12:]))
		if skip = (skip + 7) &^ 7; skip > uint64(len(data)) {
			return nil, damaged("old entries")
		}
		data = data[skip:]
	}
	if len(data) < headerNew || !bytes.HasPrefix(data, []byte(magicNew)) {
		return nil, damaged("header")
	}
	bo := order(data)
	n := bo.Uint32(data[20:])
	if n > maxEntries || uint64(n)*entryNew > uint64(len(data)-headerNew) {
		return nil, damaged("number of libraries")
	}
	entries := make([]Entry, 0, n)
	// Entries share one copy: their strings may overlap, and then be longer than the file together.
	all := string(data)
	for i := range int(n) {
		raw := data[headerNew+i*entryNew:]
		name, ok1 := text(all, bo.Uint32(raw[4:]))
		path, ok2 := text(all, bo.Uint32(raw[8:]))
		if !ok1 || !ok2 {
			return nil, damaged(fmt.Sprintf("strings of entry %d", i))
		}
		entries = append(entries, Entry{Name: name, Path: path, Flags: int32(bo.Uint32(raw))})
	}
	return entries, nil
}

// order is the byte order of the cache: that of the machine that wrote it, noted in the flags since glibc 2.33.
func order(data []byte) binary.ByteOrder {
	if len(data) > 28 && bytes.HasPrefix(data, []byte(magicNew)) && data[28]&3 == 3 {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

func text(data string, at uint32) (string, bool) {
	if uint64(at) >= uint64(len(data)) {
		return "", false
	}
	rest := data[at:]
	before, _, ok := strings.Cut(rest[:min(len(rest), maxString)], "\x00")
	return before, ok
}

func damaged(what string) error { return fmt.Errorf("%w: %s", ErrFormat, what) }
