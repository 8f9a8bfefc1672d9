package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"hpcimg/image/cache/internal/disk"
)

const (
	partPrefix = ".resume-"
	sumsSuffix = ".sums" // a key has no dot
	// partAge is how long the beginning of a blob is kept that nobody goes on with.
	partAge = 3 * 24 * time.Hour
	// maxPart is the largest blob that is kept while it arrives: its checksums are in memory.
	maxPart = 1 << 40
	// syncChunks is how often a part on a network file system is written out, for those on other nodes who read along.
	syncChunks = 16

	partHeader = 256
	recordSize = 8
)

// errAbsent is a chunk that is not there, or not yet.
var errAbsent = errors.New("not there")

// part is a blob that is on its way into the cache: a file with what there is of the data, and another with a checksum of each
// MiB that is complete. The checksums find what a crash has left unwritten; whether the whole is right, its digest decides.
//
// One caller at a time, who has the lease, writes; others may read along.
type part struct {
	c    *Cache
	key  string
	size int64
	path string
	f    *os.File
	sums *os.File // nil of a part that nobody else is to find

	mu      sync.Mutex
	leading bool
	records []uint64 // of the chunks, of who is leading
}

func (c *Cache) partPath(key string) string {
	return filepath.Join(shard(c.dir, KindBlob, key), partPrefix+key)
}

// header is what the file of checksums begins with.
func (p *part) header() []byte {
	b := make([]byte, partHeader)
	copy(b, fmt.Sprintf("hpcimg-part 1 %s %d\n", p.key, p.size))
	return b
}

// record is the checksum of a chunk, twice: a hole in the file is none.
func record(data []byte) uint64 {
	sum := uint64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
	return sum<<32 | ^sum&0xffffffff
}

func isRecord(r uint64) bool { return uint32(r>>32) == ^uint32(r) }

// span is where chunk i begins, and its length.
func (p *part) span(i int64) (off, n int64) {
	off = i * disk.ChunkSize
	return off, min(p.size-off, disk.ChunkSize)
}

// leadPart opens what there is of a blob, to go on with it, or begins. The caller has the lease.
func (c *Cache) leadPart(key string, size int64) (*part, error) {
	path := c.partPath(key)
	if err := c.mkdir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	p, err := c.openPart(key, size, os.O_RDWR)
	if err == nil {
		if err = p.recall(); err == nil {
			return p, nil
		}
		p.close()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		c.opts.Logger.Debug("cache: beginning of a blob is of no use", "path", path, "error", err)
	}
	c.removePart(path)
	return c.createPart(key, size)
}

func (c *Cache) createPart(key string, size int64) (*part, error) {
	p := &part{c: c, key: key, size: size, path: c.partPath(key), leading: true}
	var err error
	if p.f, err = c.createFile(p.path); err != nil {
		return nil, err
	}
	if p.sums, err = c.createFile(p.path + sumsSuffix); err == nil {
		err = c.steps.do("write", p.sums.Name(), func() error {
			_, err := p.sums.Write(p.header())
			return err
		})
	}
	if err != nil {
		p.remove()
		return nil, err
	}
	return p, nil
}

func (c *Cache) createFile(path string) (f *os.File, err error) {
	err = c.steps.do("create", path, func() (err error) {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|openFlags, 0o600)
		return err
	})
	if err == nil && c.fileMode != 0o400 {
		_ = f.Chmod(0o200 | c.fileMode)
	}
	return f, err
}

// privatePart begins a blob under a name that nobody looks for: without a lease, two may be at it.
func (c *Cache) privatePart(key string, size int64) (*part, error) {
	dir := shard(c.dir, KindBlob, key)
	if err := c.mkdir(dir); err != nil {
		return nil, err
	}
	f, path, err := c.createTemp(dir, key)
	if err != nil {
		return nil, err
	}
	return &part{c: c, key: key, size: size, path: path, f: f, leading: true}, nil
}

// openPart opens both files of a part, if they are of this blob and somebody trusted has written them.
func (c *Cache) openPart(key string, size int64, flag int) (*part, error) {
	p := &part{c: c, key: key, size: size, path: c.partPath(key)}
	var err error
	if p.f, err = c.openPartFile(p.path, flag); err != nil {
		return nil, err
	}
	if p.sums, err = c.openPartFile(p.path+sumsSuffix, flag); err != nil {
		p.close()
		return nil, err
	}
	var b [partHeader]byte
	if err := c.readAt(p.sums, b[:], 0); err != nil {
		p.close()
		return nil, err
	}
	if !bytes.Equal(b[:], p.header()) {
		p.close()
		return nil, fmt.Errorf("%w: of another blob", errDamaged)
	}
	return p, nil
}

// openPartFile is openFile, to which it leaves the checks, for writing too.
func (c *Cache) openPartFile(path string, flag int) (*os.File, error) {
	f, info, err := c.openFile(path)
	if err != nil || flag == os.O_RDONLY {
		return f, err
	}
	defer f.Close()
	w, err := os.OpenFile(path, flag|openFlags, 0)
	if err != nil {
		return nil, err
	}
	if now, err := w.Stat(); err != nil || !os.SameFile(info, now) {
		w.Close()
		return nil, fmt.Errorf("%w: somebody replaced it", errDamaged)
	}
	return w, nil
}

// recall reads the checksums, to go on with what others have begun.
func (p *part) recall() error {
	info, err := p.f.Stat()
	if err != nil {
		return err
	}
	limit := disk.Chunks(p.size)
	raw, err := io.ReadAll(io.NewSectionReader(p.sums, partHeader, limit*recordSize))
	if err != nil {
		return err
	}
	for i := range min(limit, int64(len(raw)/recordSize)) {
		r := binary.BigEndian.Uint64(raw[i*recordSize:])
		if off, n := p.span(i); off+n > info.Size() || !isRecord(r) {
			r = 0
		}
		p.records = append(p.records, r)
	}
	p.leading = true
	return nil
}

// have returns how many bytes are there, by the checksums.
func (p *part) have() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var sum int64
	for i, r := range p.records {
		if isRecord(r) {
			_, n := p.span(int64(i))
			sum += n
		}
	}
	return sum
}

// missing returns the first chunk that is not there, from a chunk on or, if there is none, at all; -1 if nothing is missing.
func (p *part) missing(from int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	total := disk.Chunks(p.size)
	for _, begin := range []int64{from, 0} {
		for i := begin; i < total; i++ {
			if i >= int64(len(p.records)) || !isRecord(p.records[i]) {
				return i
			}
		}
	}
	return -1
}

// has reports whether a chunk is there, by its checksum.
func (p *part) has(i int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return i < int64(len(p.records)) && isRecord(p.records[i])
}

// put writes a chunk.
func (p *part) put(i int64, data []byte) error {
	off, _ := p.span(i)
	err := p.c.steps.do("write", p.path, func() error {
		_, err := p.f.WriteAt(data, off)
		return err
	})
	if err != nil {
		return err
	}
	if err := p.note(i, record(data)); err != nil {
		return err
	}
	if p.sums != nil && !p.c.local && i%syncChunks == syncChunks-1 {
		return errors.Join(p.f.Sync(), p.sums.Sync())
	}
	return nil
}

// drop forgets a chunk that is damaged.
func (p *part) drop(i int64) error { return p.note(i, 0) }

func (p *part) note(i int64, r uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for int64(len(p.records)) <= i {
		p.records = append(p.records, 0)
	}
	p.records[i] = r
	if p.sums == nil {
		return nil
	}
	return p.c.steps.do("write", p.sums.Name(), func() error {
		_, err := p.sums.WriteAt(binary.BigEndian.AppendUint64(nil, r), partHeader+i*recordSize)
		return err
	})
}

// load reads a chunk into buf and checks it. errAbsent is one that is not there yet; errDamaged is another than was written.
func (p *part) load(i int64, buf []byte) ([]byte, error) {
	r, err := p.record(i)
	if err != nil {
		return nil, err
	}
	off, n := p.span(i)
	if int64(len(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if err := p.c.readAt(p.f, buf, off); err != nil {
		return nil, err
	}
	if record(buf) != r {
		return nil, fmt.Errorf("%w: chunk %d", errDamaged, i)
	}
	return buf, nil
}

func (p *part) record(i int64) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var r uint64
	switch {
	case !p.leading:
		var b [recordSize]byte
		if _, err := p.sums.ReadAt(b[:], partHeader+i*recordSize); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		r = binary.BigEndian.Uint64(b[:])
	case i < int64(len(p.records)):
		r = p.records[i]
	}
	if !isRecord(r) {
		return 0, errAbsent
	}
	return r, nil
}

func (p *part) close() {
	_ = p.f.Close()
	if p.sums != nil {
		_ = p.sums.Close()
	}
}

// remove closes a part and removes its files.
func (p *part) remove() {
	p.close()
	if p.sums == nil && p.path != p.c.partPath(p.key) {
		_ = p.c.steps.do("remove", p.path, func() error { return os.Remove(p.path) })
		return
	}
	p.c.removePart(p.path)
}

func (c *Cache) removePart(path string) {
	for _, name := range []string{path + sumsSuffix, path} {
		_ = c.steps.do("remove", name, func() error { return os.Remove(name) })
	}
}

// isPart reports whether a name is that of a part or its checksums.
func isPart(name string) bool { return strings.HasPrefix(name, partPrefix) }
