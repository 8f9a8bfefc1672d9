package estargz

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"hpcimg/convert/internal/layer"
)

const jsonBuffer = 32 << 10

// toc is the table of contents, without what only its JSON needs.
type toc struct {
	chunk   int64
	entries []entry
	chunks  []chunk // of all files, in order
	digest  digest.Digest
}

type entry struct {
	kind         string
	name, link   string
	uname, gname string
	modTime      string
	xattrs       map[string]string
	size, mode   int64
	uid, gid     int
	major, minor int64
	digest       [sha256.Size]byte
}

type chunk struct {
	offset int64
	digest [sha256.Size]byte
}

// finish writes the table of contents and the footer.
func (b *builder) finish() error {
	if b.batch != nil {
		b.current().end = len(b.batch.raw)
		if err := b.flush(); err != nil {
			return err
		}
	}
	if err := b.drain(); err != nil {
		return err
	}
	// The size stands before the text, and the text may be large: it is made twice rather than kept.
	sum := sha256.New()
	var size int64
	err := b.toc.json(b.replaced, func(p []byte) error {
		sum.Write(p)
		size += int64(len(p))
		return nil
	})
	if err != nil {
		return err
	}
	if size > b.limits.Bytes-b.written {
		return &layer.LimitError{What: "bytes in a layer", Limit: b.limits.Bytes}
	}
	b.toc.digest = digest.NewDigest(digest.SHA256, sum)
	h := &header{tar: &tar.Header{Name: tocName, Typeflag: tar.TypeReg, Size: size}}
	next := &pieces{cutter: &b.cutter, first: true}
	if err := next.header(h); err != nil {
		return err
	}
	if err := b.toc.json(b.replaced, next.add); err != nil {
		return err
	}
	// Padding and the end of the archive.
	if err := next.add(make([]byte, (blockSize-size%blockSize)%blockSize+2*blockSize)); err != nil {
		return err
	}
	return next.flush(true)
}

// pieces compresses the member of the TOC in parallel.
type pieces struct {
	*cutter
	first bool
}

func (s *pieces) header(h *header) (err error) {
	if s.batch, err = s.get(); err != nil {
		return err
	}
	s.batch.raw, err = h.appendTo(s.batch.raw)
	return err
}

func (s *pieces) add(p []byte) (err error) {
	if len(s.batch.raw) >= pieceSize {
		if err := s.flush(false); err != nil {
			return err
		}
		if s.batch, err = s.get(); err != nil {
			return err
		}
	}
	s.batch.raw = append(s.batch.raw, p...)
	return nil
}

func (s *pieces) flush(last bool) error {
	s.batch.piece = piece{toc: true, first: s.first, last: last}
	s.first = false
	return s.cutter.flush()
}

// json hands out the text of the table of contents, in parts that are good until the next one. Entries that have been replaced are
// left out; those are numbered as in names.
func (t *toc) json(replaced map[int]bool, out func([]byte) error) error {
	var owners, groups lastNames
	chunks := t.chunks
	buf := []byte(`{"version":1,"entries":[`)
	separator := "\n"
	// flush keeps buf small whatever a file has of chunks, and the layer of empty entries.
	flush := func() error {
		if len(buf) < jsonBuffer {
			return nil
		}
		defer func() { buf = buf[:0] }()
		return out(buf)
	}
	for i := range t.entries {
		e := &t.entries[i]
		own := chunks[:t.chunkCount(e)]
		chunks = chunks[len(own):]
		// Entry 0 is the landmark when anything can have been replaced.
		if replaced[i-1] {
			continue
		}
		buf = append(buf, separator...)
		separator = ",\n"
		buf = t.appendEntry(buf, e, own, owners.changed(e.uid, e.uname), groups.changed(e.gid, e.gname))
		if err := flush(); err != nil {
			return err
		}
		for i := 1; i < len(own); i++ {
			buf = t.appendChunk(buf, e, int64(i), own[i])
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return out(append(buf, "\n]}"...))
}

// lastNames are the names of the owners of the entries so far. A name is written when it is not the one known already.
type lastNames map[int]string

func (l *lastNames) changed(id int, name string) string {
	if name == "" || (*l)[id] == name {
		return ""
	}
	if *l == nil {
		*l = make(lastNames)
	}
	(*l)[id] = name
	return name
}

func (t *toc) chunkCount(e *entry) int64 {
	if e.kind != "reg" {
		return 0
	}
	return (e.size + t.chunk - 1) / t.chunk
}

func (t *toc) appendEntry(b []byte, e *entry, chunks []chunk, uname, gname string) []byte {
	b = appendString(append(b, `{"name":`...), e.name)
	b = append(append(append(b, `,"type":"`...), e.kind...), '"')
	b = appendNumber(b, "size", e.size)
	b = appendText(b, "modtime", e.modTime)
	b = appendText(b, "linkName", e.link)
	b = appendNumber(b, "mode", e.mode)
	b = appendNumber(b, "uid", int64(e.uid))
	b = appendNumber(b, "gid", int64(e.gid))
	b = appendText(b, "userName", uname)
	b = appendText(b, "groupName", gname)
	if len(chunks) > 0 {
		b = appendNumber(b, "offset", chunks[0].offset)
	}
	b = appendNumber(b, "devMajor", e.major)
	b = appendNumber(b, "devMinor", e.minor)
	b = appendXattrs(b, e.xattrs)
	if e.kind == "reg" {
		b = appendDigest(b, "digest", e.digest)
	}
	if len(chunks) > 0 {
		b = t.appendContents(b, e, 0, chunks[0])
	}
	return append(b, '}')
}

// appendChunk appends the entry of chunk i of the contents of e, which is not the first.
func (t *toc) appendChunk(b []byte, e *entry, i int64, c chunk) []byte {
	b = appendString(append(b, ",\n{\"name\":"...), e.name)
	b = append(b, `,"type":"chunk"`...)
	b = appendNumber(b, "offset", c.offset)
	b = appendNumber(b, "chunkOffset", i*t.chunk)
	return append(t.appendContents(b, e, i, c), '}')
}

func (t *toc) appendContents(b []byte, e *entry, i int64, c chunk) []byte {
	if e.size-i*t.chunk >= t.chunk { // else it is what remains
		b = appendNumber(b, "chunkSize", t.chunk)
	}
	return appendDigest(b, "chunkDigest", c.digest)
}

func appendXattrs(b []byte, xattrs map[string]string) []byte {
	if len(xattrs) == 0 {
		return b
	}
	separator := `,"xattrs":{`
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		b = appendString(append(b, separator...), name)
		b = append(b, ':', '"')
		b = base64.StdEncoding.AppendEncode(b, []byte(xattrs[name]))
		b = append(b, '"')
		separator = ","
	}
	return append(b, '}')
}

// appendNumber and appendText leave out what is empty.
func appendNumber(b []byte, key string, n int64) []byte {
	if n == 0 {
		return b
	}
	b = append(append(append(b, `,"`...), key...), `":`...)
	return strconv.AppendInt(b, n, 10)
}

func appendText(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(append(append(append(b, `,"`...), key...), `":`...), s)
}

func appendDigest(b []byte, key string, d [sha256.Size]byte) []byte {
	b = append(append(append(b, `,"`...), key...), `":"sha256:`...)
	return append(hex.AppendEncode(b, d[:]), '"')
}

// appendString writes s as JSON. What is not UTF-8, which only names of owners may be, becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ':
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
