package layer

import "sync/atomic"

const (
	// MaxPath and MaxName are what Linux allows in a path and in a name.
	MaxPath = 4096
	MaxName = 255

	maxTarget   = 4095     // of a symbolic link, in squashfs
	maxXattrs   = 64 << 10 // names and values of one file
	maxID       = 1<<32 - 2
	maxMajor    = 1<<12 - 1 // of a device number in squashfs
	maxMinor    = 1<<20 - 1
	maxTime     = 1<<32 - 1
	zstdWindow  = 128 << 20
	defaultMany = 5_000_000
	defaultSize = 1 << 40
	defaultText = 1 << 30
)

// Budget bounds what all layers of an image have together. The zero value of a field is its default. A Budget is used up
// by the layers that share it, which may be read at the same time.
type Budget struct {
	Entries int64 // default 5,000,000
	Bytes   int64 // of tar streams, and of the files that they declare; default 1 TiB

	// Text is what is kept in memory of the entries: paths, link targets and extended attributes, which a hostile layer can
	// have compressed to nothing. Default 1 GiB.
	Text int64

	entries, stream, declared, text atomic.Int64
}

func (b *Budget) entryLimit() int64 {
	if b.Entries == 0 {
		return defaultMany
	}
	return b.Entries
}

func (b *Budget) byteLimit() int64 {
	if b.Bytes == 0 {
		return defaultSize
	}
	return b.Bytes
}

func (b *Budget) addEntry() error {
	if b.entries.Add(1) > b.entryLimit() {
		return &LimitError{What: "entries", Limit: b.entryLimit()}
	}
	return nil
}

// addText counts what e refers to.
func (b *Budget) addText(e *Entry) error {
	limit := b.Text
	if limit == 0 {
		limit = defaultText
	}
	size := len(e.Path) + len(e.Link)
	for name, value := range e.Xattrs {
		size += len(name) + len(value)
	}
	if b.text.Add(int64(size)) > limit {
		return &LimitError{What: "bytes in names and extended attributes", Limit: limit}
	}
	return nil
}

func (b *Budget) addStream(n int64) error {
	if b.stream.Add(n) > b.byteLimit() {
		return &LimitError{What: "bytes in layers", Limit: b.byteLimit()}
	}
	return nil
}

// addDeclared counts the size of a file, which, sparse as it may be, need not have anything to do with that of the stream.
func (b *Budget) addDeclared(size int64) error {
	limit := b.byteLimit()
	if size > limit || b.declared.Add(size) > limit {
		return &LimitError{What: "bytes in files", Limit: limit}
	}
	return nil
}

// AddLayer counts a layer that is known from elsewhere as if it had been read: whether a source is within its limits must not
// depend on what somebody remembers of it.
func (b *Budget) AddLayer(entries *List, tarSize int64) error {
	if err := b.addStream(tarSize); err != nil {
		return err
	}
	for _, e := range entries.All() {
		if err := b.AddEntry(e); err != nil {
			return err
		}
	}
	return nil
}

// AddEntry counts an entry that has not come from a Tar.
func (b *Budget) AddEntry(e *Entry) error {
	if err := b.addEntry(); err != nil {
		return err
	}
	if err := b.addText(e); err != nil {
		return err
	}
	return b.addDeclared(e.Size)
}
