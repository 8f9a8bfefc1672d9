package squashfs

import (
	"cmp"
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"

	"hpcimg/squashfs/internal/disk"
)

// CheckOptions are the options of [Check].
type CheckOptions struct {
	// MaxFindings bounds the list of findings; 0 means 1000.
	MaxFindings int
	// NoData leaves the contents of files unread: their blocks are located,
	// but not decompressed.
	NoData bool
	// Workers is how many blocks are decompressed at a time; 0 means
	// GOMAXPROCS.
	Workers int
	// MaxRecords bounds the inodes and blocks, each of which takes about 40
	// bytes of memory; 0 means 16 million.
	MaxRecords int64
}

// Finding is one deviation from the format.
type Finding struct {
	Rule      CheckRule
	Structure string // as in [FormatError]
	Offset    int64  // in the image, of the structure or the metadata block that holds it
	Path      string // of the file concerned, where it is known
	Message   string
	RefusedBy Tools // those who will not read the image, or the file; see [CheckRule]
}

// CheckReport is what [Check] found.
type CheckReport struct {
	Findings []Finding // sorted by offset
	Omitted  int64     // findings beyond [CheckOptions.MaxFindings]

	Inodes      int64
	Directories int64
	Files       int64
	Blocks      int64 // distinct data blocks
	Fragments   int64 // fragment blocks
}

// OK reports whether every known reader will read all of the image.
func (r *CheckReport) OK() bool {
	return r.Omitted == 0 && !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.RefusedBy != 0 })
}

// Check reads a whole image and reports what deviates from the format, and
// which readers will refuse it. It is stricter than [NewReader], which reads
// whatever it safely can.
//
// The error tells that src could not be read, that ctx is done, or that the
// image exceeds a limit; whatever is wrong with the image is in the report.
func Check(ctx context.Context, src io.ReaderAt, size int64, opts *CheckOptions) (*CheckReport, error) {
	var o CheckOptions
	if opts != nil {
		o = *opts
	}
	o.MaxFindings = cmp.Or(max(o.MaxFindings, 0), 1000)
	o.Workers = cmp.Or(max(o.Workers, 0), runtime.GOMAXPROCS(0))
	o.MaxRecords = cmp.Or(max(o.MaxRecords, 0), 16_000_000)
	c := &checker{ctx: ctx, o: o}
	c.r = newReader(src, size, (&ReaderOptions{Workers: 1}).withDefaults())
	err := c.run()
	slices.SortStableFunc(c.report.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Path, b.Path),
			cmp.Compare(a.Message, b.Message))
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return &c.report, nil
}

// checker carries one Check. Everything but add runs on one goroutine, apart
// from decoding.
type checker struct {
	ctx    context.Context //nolint:containedctx // lives as long as the call that it belongs to
	o      CheckOptions
	r      *Reader
	mu     sync.Mutex
	report CheckReport

	records   int64
	inodes    []checkInode // in the order of the inode table
	byNumber  []uint32     // places in inodes, by number
	dataStart int64
	blocks    []blockUse
	fragments []fragmentUse
	xattrSeen map[uint32]bool
}

// checkInode is what is kept of an inode.
type checkInode struct {
	ref     InodeRef
	number  uint32
	links   uint32 // as the inode says
	seen    uint32 // entries that lead to it; for a directory, its subdirectories as well
	dir     bool
	claimed bool // a directory that some entry led to
}

// errStop ends a check that cannot go on; its reason has been reported.
var errStop = errors.New("squashfs: stop")

func (c *checker) run() error {
	for _, step := range []func() error{
		c.superblock, c.tables, c.inodeTable, c.root, c.linkCounts, c.exportTable, c.data,
	} {
		err := c.ctx.Err()
		if err == nil {
			err = step()
		}
		if errors.Is(err, errStop) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// maxFindingPath bounds the paths in a report. Hostile ones have no end.
const maxFindingPath = 4096

// find adds a finding.
func (c *checker) find(rule CheckRule, path string, err error) {
	if len(path) > maxFindingPath {
		path = "…" + path[len(path)-maxFindingPath:]
	}
	f := Finding{Rule: rule, Path: path, Message: err.Error(), RefusedBy: rule.RefusedBy()}
	var fe *FormatError
	if errors.As(err, &fe) {
		f.Structure, f.Offset, f.Message = fe.Structure, fe.Offset, fe.Err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.report.Findings) >= c.o.MaxFindings {
		c.report.Omitted++
		return
	}
	c.report.Findings = append(c.report.Findings, f)
}

// findf adds a finding at a place.
func (c *checker) findf(rule CheckRule, structure string, off int64, format string, args ...any) {
	c.find(rule, "", formatErrorf(structure, off, format, args...))
}

// note reports err if it is about the image, and returns it otherwise.
func (c *checker) note(rule CheckRule, path string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrFormat) || errors.Is(err, ErrLimit) || errors.Is(err, errors.ErrUnsupported) {
		c.find(rule, path, err)
		return nil
	}
	return err
}

// fatal is note for what nothing can follow.
func (c *checker) fatal(rule CheckRule, err error) error {
	if err == nil {
		return nil
	}
	if err := c.note(rule, "", err); err != nil {
		return err
	}
	return errStop
}

// superblock checks the superblock, and repairs our copy of it where other
// readers go on.
func (c *checker) superblock() error {
	r := c.r
	var buf [disk.SuperblockSize]byte
	if r.size < disk.SuperblockSize {
		return c.fatal(RuleSuperblock, formatErrorf("superblock", 0, "%d bytes: %w", r.size, io.ErrUnexpectedEOF))
	}
	if err := r.readFull(buf[:], 0); err != nil {
		return err
	}
	sb, err := disk.DecodeSuperblock(buf[:])
	if err != nil {
		return c.fatal(RuleSuperblock, formatError("superblock", 0, err))
	}
	if sb.BytesUsed > uint64(r.size) {
		c.findf(RuleBytesUsed, "superblock", 0, "%d bytes used of %d", sb.BytesUsed, r.size)
		sb.BytesUsed = uint64(r.size)
	} else {
		c.padding(int64(sb.BytesUsed))
	}
	if log := blockLog(sb.BlockSize); log != sb.BlockLog && log != 0 {
		c.findf(RuleBlockLog, "superblock", 0, "block size %d but its logarithm is %d", sb.BlockSize, sb.BlockLog)
		sb.BlockLog = log
	}
	r.sb = sb
	if log := blockLog(sb.BlockSize); log == 0 {
		return c.fatal(RuleBlockSize, checkSuperblock(&sb, r.size))
	}
	if err := c.fatal(RuleSuperblock, checkSuperblock(&sb, r.size)); err != nil {
		return err
	}
	c.flags()
	if err := c.fatal(RuleCompressor, r.prepare((&ReaderOptions{}).withDefaults())); err != nil {
		return err
	}
	r.inspect = c.inspect
	return c.options()
}

// blockLog returns the logarithm of a valid block size, 0 for others.
func blockLog(size uint32) uint16 {
	for log := uint16(12); log <= 20; log++ {
		if size == 1<<log {
			return log
		}
	}
	return 0
}

func (c *checker) padding(used int64) {
	switch size := c.r.size; {
	case size&^511 < used:
		c.findf(RulePadding, "superblock", 0, "image of %d bytes is not padded: a loop device shows %d, %d are used",
			size, size&^511, used)
	case size%disk.PadSize != 0:
		c.findf(RulePadding4K, "superblock", 0, "image of %d bytes is not padded to 4 KiB", size)
	}
}

func (c *checker) flags() {
	sb := &c.r.sb
	differs := func(flag uint16, want bool, what string) {
		if (sb.Flags&flag != 0) != want {
			c.findf(RuleFlags, "superblock", 0, "flags %#x do not fit: %s", sb.Flags, what)
		}
	}
	differs(disk.FlagExport, sb.ExportTable != disk.NoTable, "export table")
	if sb.Flags&disk.FlagNoFragments != 0 && sb.Fragments > 0 {
		differs(disk.FlagNoFragments, false, "fragments")
	}
	if sb.Flags&disk.FlagNoXattrs != 0 && sb.XattrTable != disk.NoTable {
		differs(disk.FlagNoXattrs, false, "extended attributes")
	}
	if sb.Flags&disk.FlagCheck != 0 {
		c.findf(RuleCheckFlag, "superblock", 0, "flag 0x4 is set")
	}
}
