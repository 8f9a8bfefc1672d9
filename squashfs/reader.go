package squashfs

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"runtime"
	"sync"
	"time"

	"hpcimg/squashfs/internal/disk"
)

// ReaderOptions are the options of [NewReader] and [Open].
type ReaderOptions struct {
	// CacheSize is how many bytes of decoded blocks are kept; 0 means 32 MiB.
	CacheSize int64
	// Workers is how many blocks are decoded at a time when a file is
	// written out as a whole; 0 means GOMAXPROCS.
	Workers int
	// MaxReadFile bounds the files that ReadFile reads; 0 means 1 GiB.
	MaxReadFile int64
}

func (o *ReaderOptions) withDefaults() ReaderOptions {
	var v ReaderOptions
	if o != nil {
		v = *o
	}
	v.CacheSize = cmp.Or(max(v.CacheSize, 0), 32<<20)
	v.Workers = cmp.Or(max(v.Workers, 0), runtime.GOMAXPROCS(0))
	v.MaxReadFile = cmp.Or(max(v.MaxReadFile, 0), 1<<30)
	return v
}

const noFragment = disk.NoFragment

// Reader gives access to the files of an image. As a file system (fs.FS,
// fs.ReadDirFS, fs.StatFS, fs.ReadFileFS and fs.ReadLinkFS) it follows
// symbolic links inside the image, whose root is where absolute links start
// and ".." ends. [Reader.Root] is the entry to the inodes themselves.
//
// A Reader and everything that comes from it may be used by many goroutines.
type Reader struct {
	src         io.ReaderAt
	closer      io.Closer
	size        int64 // of the source
	used        int64 // bytes of it that the image takes
	sb          disk.Superblock
	compression Compression
	decoder     blockDecoder
	workers     int
	maxReadFile int64

	metaCache *blockCache
	dataCache *blockCache
	inspect   func(src []byte, structure string, off int64) // of each compressed block; may be nil
	scratch   bufferPool                                    // stored bytes
	buffers   bufferPool                                    // decoded blocks

	idTable     *lookupTable
	fragTable   *lookupTable
	exportTable *lookupTable
	inodes      metaTable
	dirs        metaTable
	ids         []uint32
	root        *Inode

	xattrOnce sync.Once
	xattrTab  *attrTable
	xattrErr  error

	numbersOnce sync.Once
	numbers     map[uint32]InodeRef
	numbersErr  error

	seed     maphash.Seed
	claimsMu sync.Mutex
	claims   map[InodeRef]dirName // of directories that were found
}

// NewReader returns a reader of the image in the first size bytes of src. It
// reads superblock, lookup tables and root inode; anything else is read, and
// checked, when it is needed. Nil options are the defaults.
func NewReader(src io.ReaderAt, size int64, opts *ReaderOptions) (*Reader, error) {
	r := newReader(src, size, opts.withDefaults())
	var buf [disk.SuperblockSize]byte
	if size < disk.SuperblockSize {
		return nil, formatErrorf("superblock", 0, "%d bytes: %w", size, io.ErrUnexpectedEOF)
	}
	if err := r.readFull(buf[:], 0); err != nil {
		return nil, err
	}
	var err error
	if r.sb, err = disk.DecodeSuperblock(buf[:]); err != nil {
		return nil, formatError("superblock", 0, err)
	}
	if err := checkSuperblock(&r.sb, size); err != nil {
		return nil, err
	}
	if err := r.open(opts.withDefaults()); err != nil {
		return nil, err
	}
	return r, nil
}

func newReader(src io.ReaderAt, size int64, o ReaderOptions) *Reader {
	return &Reader{
		src:         src,
		size:        size,
		workers:     o.Workers,
		maxReadFile: o.MaxReadFile,
		seed:        maphash.MakeSeed(),
		claims:      make(map[InodeRef]dirName),
	}
}

// open prepares everything behind a superblock that has been checked.
func (r *Reader) open(o ReaderOptions) error {
	if err := r.prepare(o); err != nil {
		return err
	}
	if err := r.readTables(); err != nil {
		return err
	}
	return r.openRoot()
}

// prepare sets up decoder and caches.
func (r *Reader) prepare(o ReaderOptions) (err error) {
	r.used = int64(r.sb.BytesUsed)
	r.compression, _ = compressionByID(r.sb.Compressor)
	if r.decoder, err = newBlockDecoder(r.sb.Compressor); err != nil {
		return err
	}
	r.scratch.size = max(int(r.sb.BlockSize), disk.MetadataHeaderSize+disk.MetadataSize)
	r.buffers.size = int(r.sb.BlockSize)
	r.metaCache = newBlockCache(o.CacheSize/4, disk.MetadataSize)
	r.dataCache = newBlockCache(o.CacheSize-o.CacheSize/4, int64(r.sb.BlockSize))
	return nil
}

func (r *Reader) openRoot() (err error) {
	if r.root, err = r.Inode(InodeRef(r.sb.Root)); err != nil {
		return err
	}
	if !r.root.IsDir() {
		return r.root.failf("root is not a directory")
	}
	return nil
}

// Open opens the image in a file. Close it after use.
func Open(path string, opts *ReaderOptions) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		var r *Reader
		if r, err = NewReader(f, size, opts); err == nil {
			r.closer = f
			return r, nil
		}
	}
	return nil, errors.Join(&fs.PathError{Op: "open", Path: path, Err: err}, f.Close())
}

// Close closes the file that [Open] opened. A reader from [NewReader] need not
// be closed.
func (r *Reader) Close() error {
	if r.closer == nil {
		return nil
	}
	return r.closer.Close()
}

// Compression returns the image's compressor.
func (r *Reader) Compression() Compression { return r.compression }

// BlockSize returns the size of a data block.
func (r *Reader) BlockSize() int { return int(r.sb.BlockSize) }

// Inodes returns the number of inodes.
func (r *Reader) Inodes() int { return int(r.sb.Inodes) }

// ModTime returns the time at which the image was made, as it says.
func (r *Reader) ModTime() time.Time { return time.Unix(int64(r.sb.ModTime), 0).UTC() }

// BytesUsed returns the length of the image without padding.
func (r *Reader) BytesUsed() int64 { return r.used }

// Open implements fs.FS. A regular file also implements io.ReaderAt, io.Seeker
// and io.WriterTo; the latter decodes several blocks at a time.
func (r *Reader) Open(name string) (fs.File, error) {
	in, err := r.find("open", name, true)
	if err != nil {
		return nil, err
	}
	if in.IsDir() {
		return &openDir{openFile: openFile{in: in, name: name}}, nil
	}
	return &openFile{in: in, name: name}, nil
}

// Stat implements fs.StatFS. The result is a [*FileInfo].
func (r *Reader) Stat(name string) (fs.FileInfo, error) {
	in, err := r.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return newFileInfo(name, in), nil
}

// Lstat is Stat, but does not follow a symbolic link.
func (r *Reader) Lstat(name string) (fs.FileInfo, error) {
	in, err := r.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return newFileInfo(name, in), nil
}

// ReadLink returns the target of a symbolic link.
func (r *Reader) ReadLink(name string) (string, error) {
	in, err := r.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	if !in.isSymlink() {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return in.target, nil
}

// ReadDir implements fs.ReadDirFS.
func (r *Reader) ReadDir(name string) ([]fs.DirEntry, error) {
	in, err := r.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	d := &openDir{openFile: openFile{in: in, name: name}}
	return d.ReadDir(-1)
}

// ReadFile implements fs.ReadFileFS, within [ReaderOptions.MaxReadFile].
func (r *Reader) ReadFile(name string) ([]byte, error) {
	in, err := r.find("open", name, true)
	if err != nil {
		return nil, err
	}
	data, err := in.readAll(r.maxReadFile)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return data, nil
}

// readAll returns the contents of a file. It does not trust the size to be
// true before some of it has been seen.
func (in *Inode) readAll(limit int64) ([]byte, error) {
	if in.special() {
		return []byte{}, nil
	}
	if err := in.readable(); err != nil {
		return nil, err
	}
	size := int64(in.d.Size)
	if size > limit {
		return nil, &LimitError{What: "bytes in a file", Limit: limit}
	}
	const step = 4 << 20
	data := make([]byte, min(size, step))
	for n := int64(0); n < size; {
		k, err := in.readAt(data[n:], n)
		if err != nil {
			return nil, err
		}
		if n += int64(k); n == size {
			break
		}
		grown := make([]byte, min(size, 2*n))
		copy(grown, data[:n])
		data = grown
	}
	return data, nil
}

var _ interface {
	fs.StatFS
	fs.ReadDirFS
	fs.ReadFileFS
	fs.ReadLinkFS
	fmt.Stringer
} = (*Reader)(nil)

// String describes the image in a few words.
func (r *Reader) String() string {
	return fmt.Sprintf("squashfs (%v, %d inodes)", r.compression, r.sb.Inodes)
}
