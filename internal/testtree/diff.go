package testtree

import (
	"fmt"
	"slices"
	"strings"
)

// DiffOptions says what [Diff] does not compare.
type DiffOptions struct {
	IgnoreOwner  bool
	IgnoreMTime  bool                   // of all entries
	IgnoreLinks  bool                   // link counts; hard link groups are still compared
	IgnoreXattrs []string               // name prefixes; "" is all
	Ignore       func(path string) bool // whole entries; a directory's contents are asked for one by one
	Limit        int                    // lines of the answer; 0 is 60
}

// Diff compares two listings and describes how to come from the first to the second, a line per difference: "-" is only in a, "+"
// only in b. It returns "" when they are equal. The root is compared when both listings have one. Of a directory that one
// side lacks only the top is shown, with the number of entries below it.
func Diff(a, b Listing, o *DiffOptions) string {
	if o == nil {
		o = &DiffOptions{}
	}
	d := differ{o: o, limit: o.Limit}
	if d.limit == 0 {
		d.limit = 60
	}
	paths := append(a.Paths(), b.Paths()...)
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		if o.Ignore != nil && o.Ignore(path) {
			continue
		}
		na, inA := a[path]
		nb, inB := b[path]
		switch {
		case inA && inB:
			d.compare(path, na, nb)
		case path == ".":
		case inA:
			d.missing("-", path, na)
		default:
			d.missing("+", path, nb)
		}
	}
	return d.String()
}

type differ struct {
	o     *DiffOptions
	limit int
	lines []string
	more  int

	top   string // the missing directory whose contents are being counted
	sign  string
	below int
}

func (d *differ) String() string {
	d.flush()
	if d.more > 0 {
		d.lines = append(d.lines, fmt.Sprintf("… and %d more differences", d.more))
	}
	if len(d.lines) == 0 {
		return ""
	}
	return strings.Join(d.lines, "\n") + "\n"
}

func (d *differ) line(format string, args ...any) {
	if len(d.lines) >= d.limit {
		d.more++
		return
	}
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *differ) missing(sign, path string, n Node) {
	if d.top != "" && d.sign == sign && strings.HasPrefix(path, d.top+"/") {
		d.below++
		return
	}
	d.flush()
	d.line("%s %s: %s", sign, path, n)
	if n.Mode.IsDir() {
		d.top, d.sign = path, sign
	}
}

func (d *differ) flush() {
	if d.below > 0 {
		d.line("%s %s/… (%d entries below)", d.sign, d.top, d.below)
	}
	d.top, d.below = "", 0
}

func (d *differ) compare(path string, a, b Node) {
	a, b = d.reduce(path, a), d.reduce(path, b)
	if a == b {
		return
	}
	if a.Implied || b.Implied {
		if a.Mode.Type() == b.Mode.Type() {
			return
		}
		d.line("  %s: type: -%v +%v", path, a.Mode.Type(), b.Mode.Type())
		return
	}
	var fields []string
	field := func(name string, x, y any) {
		if x != y {
			fields = append(fields, fmt.Sprintf("%s: -%v +%v", name, x, y))
		}
	}
	field("mode", a.Mode, b.Mode)
	field("uid", a.UID, b.UID)
	field("gid", a.GID, b.GID)
	field("mtime", a.ModTime, b.ModTime)
	field("size", a.Size, b.Size)
	if a.Size == b.Size {
		field("sha256", a.SHA256, b.SHA256)
	}
	field("target", fmt.Sprintf("%q", a.Target), fmt.Sprintf("%q", b.Target))
	field("device", fmt.Sprintf("%d:%d", a.Major, a.Minor), fmt.Sprintf("%d:%d", b.Major, b.Minor))
	field("links", a.Links, b.Links)
	field("hard link of", fmt.Sprintf("%q", a.Group), fmt.Sprintf("%q", b.Group))
	if a.Xattrs != b.Xattrs {
		fields = append(fields, "xattrs: "+diffLines(a.Xattrs, b.Xattrs))
	}
	d.line("  %s: %s", path, strings.Join(fields, "; "))
}

// reduce drops from n what the options ignore.
func (d *differ) reduce(path string, n Node) Node {
	if d.o.IgnoreOwner {
		n.UID, n.GID = 0, 0
	}
	if d.o.IgnoreMTime {
		n.ModTime = 0
	}
	if d.o.IgnoreLinks {
		n.Links = 0
	}
	if n.Group == path {
		n.Group = "" // the first path stands for the inode, it is no link to itself
	}
	if n.Xattrs != "" && len(d.o.IgnoreXattrs) > 0 {
		var kept strings.Builder
		for line := range strings.Lines(n.Xattrs) {
			if !slices.ContainsFunc(d.o.IgnoreXattrs, func(prefix string) bool { return strings.HasPrefix(line, prefix) }) {
				kept.WriteString(line)
			}
		}
		n.Xattrs = kept.String()
	}
	return n
}

func diffLines(a, b string) string {
	var out []string
	for line := range strings.Lines(a) {
		if !strings.Contains("\n"+b, "\n"+line) {
			out = append(out, "-"+strings.TrimSuffix(line, "\n"))
		}
	}
	for line := range strings.Lines(b) {
		if !strings.Contains("\n"+a, "\n"+line) {
			out = append(out, "+"+strings.TrimSuffix(line, "\n"))
		}
	}
	return strings.Join(out, " ")
}

// String is the node in one line.
func (n Node) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %d:%d mtime=%d", n.Mode, n.UID, n.GID, n.ModTime)
	switch {
	case n.Mode.IsRegular():
		fmt.Fprintf(&b, " size=%d sha256=%.12s", n.Size, n.SHA256)
	case n.Target != "":
		fmt.Fprintf(&b, " -> %q", n.Target)
	case n.Major != 0 || n.Minor != 0:
		fmt.Fprintf(&b, " device=%d:%d", n.Major, n.Minor)
	}
	if n.Group != "" {
		fmt.Fprintf(&b, " hard link of %q", n.Group)
	}
	if n.Xattrs != "" {
		fmt.Fprintf(&b, " xattrs: %s", strings.ReplaceAll(strings.TrimSuffix(n.Xattrs, "\n"), "\n", " "))
	}
	return b.String()
}
