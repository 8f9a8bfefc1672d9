package runtime

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"path"
	"strings"

	"hpcimg/mount"
	"hpcimg/squashfs"
)

const (
	// preloadFile is how large a file may be that is decoded whole. Of a larger one too little is used by most.
	preloadFile = 2 << 20
	// preloadAll bounds what is decoded for one start.
	preloadAll = 4 << 20
)

// preload decodes what the kernel and ld.so will ask for when the program is executed, into the cache of the tree: while the child
// still sets up its mounts, there is mostly a processor that has nothing to do. It is a guess, on the word of files in the
// image, and nobody waits for it: what it finds it cannot read, it leaves to who needs it.
func preload(tree mount.Tree, r *squashfs.Reader, program string) {
	l := preloader{tree: tree, image: newSquashImage(context.Background(), r), left: preloadAll}
	l.root.add(&layer{at: "/", tree: l.image})
	l.program(program, true)
}

type preloader struct {
	tree  mount.Tree
	image *squashImage
	root  layout // image, and nothing over it
	left  int64
}

// program decodes a program, its interpreter, and the libraries that it names, if they are where libraries mostly are.
func (l *preloader) program(name string, script bool) {
	f, ok := l.find(name)
	if !ok {
		return
	}
	var head [maxShebang]byte
	n, _ := f.ReadAt(head[:], 0)
	if line, ok := bytes.CutPrefix(head[:n], []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		if words := strings.Fields(string(line)); script && len(words) > 0 && path.IsAbs(words[0]) {
			l.program(words[0], false)
		}
		return
	}
	needs, ok := needsOf(f)
	if !ok || !path.IsAbs(needs.interpreter) {
		return
	}
	interpreter, ok := l.find(needs.interpreter)
	if !ok {
		return
	}
	l.decode(f)
	l.decode(interpreter)
	if cache, ok := l.find("/etc/ld.so.cache"); ok {
		l.decode(cache)
	}
	dirs := []string{path.Dir(interpreter.name), "/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/usr/lib"}
	for _, name := range needs.libraries {
		for _, dir := range dirs {
			if lib, ok := l.find(path.Join(dir, path.Base(name))); ok {
				l.decode(lib)
				break
			}
		}
	}
}

// imageFile is a regular file of an image.
type imageFile struct {
	tree mount.Tree
	node mount.NodeID
	name string // without symbolic links in it
	size int64
}

func (f *imageFile) ReadAt(p []byte, off int64) (int, error) { return f.tree.ReadAt(f.node, p, off) }

func (l *preloader) find(name string) (*imageFile, bool) {
	found, kind, missing, err := l.root.resolve(name)
	if err != nil || kind != nodeFile || len(missing) > 0 {
		return nil, false
	}
	in, err := l.image.inode(found[1:])
	if err != nil || !in.Mode().IsRegular() {
		return nil, false
	}
	return &imageFile{l.tree, mount.NodeID(in.Ref()), found, in.Size()}, true
}

// decode reads a byte of each block. The last comes first, since who reads one after the other has more decoded ahead, on as many
// processors as there are.
func (l *preloader) decode(f *imageFile) {
	if f.size > preloadFile || f.size > l.left {
		return
	}
	l.left -= f.size
	size := int64(l.image.r.BlockSize())
	var p [1]byte
	for at := (f.size - 1) / size * size; at >= 0; at -= size {
		if _, err := f.ReadAt(p[:], at); err != nil {
			return
		}
	}
}

const (
	maxShebang = 256 // as in the kernel
	maxNeeded  = 64
	maxHeaders = 64 // of a program; those of real ones have 13
	maxDynamic = 1 << 10
	maxLibName = 256
)

// needs are what an ELF file says that it needs.
type needs struct {
	interpreter string
	libraries   []string
}

// needsOf reads the headers of a 64-bit little-endian program, by a few small reads; false says that it is none, or damaged.
func needsOf(f io.ReaderAt) (n needs, ok bool) {
	le := binary.LittleEndian
	var head [64]byte
	if _, err := f.ReadAt(head[:], 0); err != nil && err != io.EOF || string(head[:6]) != "\x7fELF\x02\x01" {
		return n, false
	}
	count := int(le.Uint16(head[56:]))
	if count == 0 || count > maxHeaders || le.Uint16(head[54:]) != 56 {
		return n, false
	}
	table, ok := readPart(f, le.Uint64(head[32:]), uint64(56*count))
	if !ok {
		return n, false
	}
	const typeLoad, typeDynamic, typeInterp = 1, 2, 3
	var dynamic []byte
	at := func(i int, field int) uint64 { return le.Uint64(table[56*i+field:]) }
	const offset, address, size = 8, 16, 32
	for i := range count {
		switch le.Uint32(table[56*i:]) {
		case typeInterp:
			if text, ok := readPart(f, at(i, offset), min(at(i, size), maxLibName)); ok {
				n.interpreter = cString(text)
			}
		case typeDynamic:
			dynamic, _ = readPart(f, at(i, offset), min(at(i, size), 16*maxDynamic))
		}
	}
	var names []uint64
	var strtab uint64
	for ; len(dynamic) >= 16; dynamic = dynamic[16:] {
		const needed, stringTable = 1, 5
		switch value := le.Uint64(dynamic[8:]); le.Uint64(dynamic) {
		case needed:
			if len(names) < maxNeeded {
				names = append(names, value)
			}
		case stringTable:
			strtab = value
		}
	}
	for i := range count {
		start := at(i, address)
		if le.Uint32(table[56*i:]) != typeLoad || strtab < start || strtab-start >= at(i, size) {
			continue
		}
		for _, name := range names {
			if text, ok := readPart(f, strtab-start+at(i, offset)+name, maxLibName); ok {
				n.libraries = append(n.libraries, cString(text))
			}
		}
		break
	}
	return n, true
}

// readPart reads up to n bytes; false says that there are none.
func readPart(f io.ReaderAt, at, n uint64) ([]byte, bool) {
	if at > 1<<62 {
		return nil, false
	}
	p := make([]byte, n)
	k, _ := f.ReadAt(p, int64(at))
	return p[:k], k > 0
}

func cString(text []byte) string {
	text, _, _ = bytes.Cut(text, []byte{0})
	return string(text)
}
