package squashfs

import "strings"

// Tools is a set of squashfs readers.
type Tools uint8

// The readers that a [CheckRule] knows, at the versions that it was tried
// with.
const (
	ToolKernel     Tools = 1 << iota // Linux 6.18
	ToolSquashfuse                   // squashfuse 0.1.105
	ToolUnsquashfs                   // unsquashfs 4.5.1
	ToolReader                       // Reader, of this package
)

// String lists the tools.
func (t Tools) String() string {
	if t == 0 {
		return "nobody"
	}
	var list []string
	for i, name := range []string{"kernel", "squashfuse", "unsquashfs", "hpcimg"} {
		if t&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return strings.Join(list, ", ")
}

// CheckRule names what an image deviates from. The names are stable.
type CheckRule string

// Rules.
const (
	RuleSuperblock  CheckRule = "superblock"         // cannot be made sense of
	RuleBlockSize   CheckRule = "block-size"         // not a power of 2 from 4 KiB to 1 MiB
	RuleBlockLog    CheckRule = "block-log"          // is not the logarithm of the block size
	RuleBytesUsed   CheckRule = "bytes-used"         // the image is longer than the file
	RulePadding     CheckRule = "padding"            // a loop device would cut the end off
	RulePadding4K   CheckRule = "padding-4k"         // not padded to 4 KiB
	RuleFlags       CheckRule = "flags"              // say something else than the tables
	RuleCheckFlag   CheckRule = "check-flag"         // a flag of older formats, which unsquashfs acts on
	RuleCompressor  CheckRule = "compressor"         // unknown, or not supported
	RuleOptions     CheckRule = "compressor-options" // missing for lz4, or damaged
	RuleTable       CheckRule = "table"              // a lookup table cannot be read
	RuleNoIDs       CheckRule = "no-ids"             // empty id table
	RuleIndexEnd    CheckRule = "index-end"          // a table's index does not end where the next table starts
	RuleIndexGap    CheckRule = "index-gap"          // metadata blocks of a table are further apart than they can be
	RuleXattrTable  CheckRule = "xattr-table"        // cannot be read, or is there but empty
	RuleXattr       CheckRule = "xattr"              // an inode's attributes cannot be read
	RuleInode       CheckRule = "inode"              // cannot be made sense of
	RuleInodeCount  CheckRule = "inode-count"        // more or fewer than the superblock says
	RuleInodeNumber CheckRule = "inode-number"       // 0 or above the number of inodes
	RuleDuplicate   CheckRule = "duplicate-inode"    // two inodes of one number
	RuleMode        CheckRule = "mode"               // has bits other than permissions
	RuleLinkCount   CheckRule = "link-count"         // not the number of names
	RuleUnreachable CheckRule = "unreachable"        // inode without a name
	RuleSymlink4096 CheckRule = "symlink-4096"       // target of 4096 bytes
	RuleDirectory   CheckRule = "directory"          // cannot be read
	RuleRun         CheckRule = "run"                // more than 256 entries behind one header
	RuleName        CheckRule = "name"               // that no file can have
	RuleOrder       CheckRule = "order"              // names unsorted or twice
	RuleDirLoop     CheckRule = "directory-loop"     // a directory is its own ancestor, or has two parents
	RuleDepth       CheckRule = "directory-depth"    // deeper than this package follows
	RuleParent      CheckRule = "parent"             // a directory names another parent
	RuleDangling    CheckRule = "dangling"           // an entry leads to something that is no inode
	RuleEntryType   CheckRule = "entry-type"         // entry and inode are of different types
	RuleEntryNumber CheckRule = "entry-number"       // entry and inode have different numbers
	RuleDirIndex    CheckRule = "directory-index"    // leads to a wrong place
	RuleExport      CheckRule = "export-table"       // leads to a wrong inode
	RuleTail        CheckRule = "tail-fragment"      // whole blocks only, but a fragment index
	RuleFragment    CheckRule = "fragment"           // a file reaches beyond its fragment block
	RuleShare       CheckRule = "fragment-overlap"   // two files share a part of a fragment
	RuleUnused      CheckRule = "fragment-unused"    // a fragment block of no file
	RuleBlock       CheckRule = "block"              // stored size impossible, or outside the image
	RuleOverlap     CheckRule = "overlap"            // blocks overlap each other, or tables
	RuleData        CheckRule = "data"               // a block does not decompress to what it should hold
	RuleZstdWindow  CheckRule = "zstd-window"        // frame needs a window greater than a block
	RuleXZCheck     CheckRule = "xz-check"           // a checksum that kernels do not know
)

// RefusedBy returns the tools that will not read an image that breaks the
// rule, or the file, or will read it wrong. A rule that all readers forgive
// returns 0.
func (rule CheckRule) RefusedBy() Tools {
	const all = ToolKernel | ToolSquashfuse | ToolUnsquashfs | ToolReader
	switch rule {
	case RulePadding4K, RuleFlags, RuleLinkCount, RuleUnreachable, RuleParent, RuleEntryNumber, RuleShare,
		RuleUnused, RuleOverlap:
		return 0
	case RuleBytesUsed:
		return ToolKernel | ToolUnsquashfs | ToolReader
	case RulePadding, RuleTail, RuleMode, RuleZstdWindow, RuleXZCheck:
		return ToolKernel
	case RuleIndexEnd, RuleIndexGap, RuleDuplicate:
		return ToolKernel | ToolUnsquashfs
	case RuleOptions:
		return ToolKernel | ToolUnsquashfs
	case RuleCheckFlag, RuleInodeCount:
		return ToolUnsquashfs
	case RuleSymlink4096:
		return ToolSquashfuse | ToolUnsquashfs
	case RuleXattr:
		return ToolKernel | ToolUnsquashfs | ToolReader
	case RuleDepth:
		return ToolReader
	case RuleRun:
		return ToolKernel | ToolUnsquashfs | ToolReader
	case RuleBlock:
		return ToolKernel | ToolReader
	case RuleExport:
		return ToolKernel
	}
	return all
}
