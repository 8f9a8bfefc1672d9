package layer

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
// by the layers that share it and must not be used by two goroutines at a time.
type Budget struct {
	Entries int64 // default 5,000,000
	Bytes   int64 // of tar streams, and of the files that they declare; default 1 TiB

	// Text is what is kept in memory of the entries: paths, link targets and extended attributes, which a hostile layer can
	// have compressed to nothing. Default 1 GiB.
	Text int64

	entries, stream, declared, text int64
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
	b.entries++
	if b.entries > b.entryLimit() {
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
	b.text += int64(len(e.Path) + len(e.Link))
	for name, value := range e.Xattrs {
		b.text += int64(len(name) + len(value))
	}
	if b.text > limit {
		return &LimitError{What: "bytes in names and extended attributes", Limit: limit}
	}
	return nil
}

func (b *Budget) addStream(n int) error {
	b.stream += int64(n)
	if b.stream > b.byteLimit() {
		return &LimitError{What: "bytes in layers", Limit: b.byteLimit()}
	}
	return nil
}

// addDeclared counts the size of a file, which, sparse as it may be, need not have anything to do with that of the stream.
func (b *Budget) addDeclared(size int64) error {
	if size > b.byteLimit()-b.declared {
		return &LimitError{What: "bytes in files", Limit: b.byteLimit()}
	}
	b.declared += size
	return nil
}
