package squashfs

import (
	"encoding/binary"

	"hpcimg/squashfs/internal/disk"
)

// Linux allows names of 255 bytes, values of 64 KiB, and 64 KiB for the list
// of names.
const (
	maxAttrName  = 255
	maxAttrValue = 64 << 10
	maxAttrCount = 64 << 10 / 7 // shortest name: "user.x" and its NUL
	maxAttrBytes = 4 << 20      // names and values of one inode
)

// attrTable locates the extended attributes of an image.
type attrTable struct {
	ids    *lookupTable
	values metaTable
}

// xattrs returns the xattr table, which is read when it is first needed; nil
// if the image has none.
func (r *Reader) xattrs() (*attrTable, error) {
	r.xattrOnce.Do(func() {
		if r.sb.XattrTable != disk.NoTable {
			r.xattrTab, r.xattrErr = r.readXattrTable()
		}
	})
	return r.xattrTab, r.xattrErr
}

func (r *Reader) readXattrTable() (*attrTable, error) {
	start := r.sb.XattrTable
	var buf [disk.XattrHeadSize]byte
	if start > uint64(r.used)-disk.XattrHeadSize || start < disk.SuperblockSize {
		return nil, formatErrorf("xattr table", int64(start), "outside the image")
	}
	if err := r.readFull(buf[:], int64(start)); err != nil {
		return nil, err
	}
	head, err := disk.DecodeXattrHead(buf[:])
	if err != nil {
		return nil, formatError("xattr table", int64(start), err)
	}
	if head.Start < disk.SuperblockSize || head.Start >= start {
		return nil, formatErrorf("xattr table", int64(start), "values at %#x", head.Start)
	}
	ids, err := r.readLookup("xattr table", start+disk.XattrHeadSize, int64(head.IDs), disk.XattrIDSize)
	if err != nil {
		return nil, err
	}
	t := &attrTable{ids: ids}
	t.values = metaTable{"xattr values", int64(head.Start), int64(start)}
	ids.table.end = int64(start)
	if len(ids.index) > 0 {
		if ids.index[0] <= t.values.start {
			return nil, formatErrorf("xattr table", int64(start), "ids at %#x, values at %#x", ids.index[0], head.Start)
		}
		t.values.end = ids.index[0]
	}
	return t, nil
}

// Xattrs returns the extended attributes of the inode by their full names,
// nil if it has none. The map is the caller's.
func (in *Inode) Xattrs() (map[string]string, error) {
	if in.d.Xattr == disk.NoXattr {
		return nil, nil
	}
	t, err := in.r.xattrs()
	if err != nil {
		return nil, err
	}
	if t == nil || int64(in.d.Xattr) >= t.ids.count {
		return nil, in.failf("xattr index %d out of range", in.d.Xattr)
	}
	var buf [disk.XattrIDSize]byte
	if err := t.ids.read(in.r, buf[:], int64(in.d.Xattr)); err != nil {
		return nil, err
	}
	id, err := disk.DecodeXattrID(buf[:])
	if err != nil {
		return nil, in.failf("%w", err)
	}
	return in.r.readXattrs(t, id)
}

func (r *Reader) readXattrs(t *attrTable, id disk.XattrID) (map[string]string, error) {
	if id.Count > maxAttrCount {
		return nil, &LimitError{What: "extended attributes of one inode", Limit: maxAttrCount}
	}
	c, err := r.cursor(&t.values, id.Ref.Block(), id.Ref.Offset())
	if err != nil {
		return nil, err
	}
	set := make(map[string]string)
	total := 0
	for range id.Count {
		name, value, err := r.readXattr(t, &c)
		if err != nil {
			return nil, err
		}
		if total += len(name) + len(value); total > maxAttrBytes {
			return nil, &LimitError{What: "bytes of extended attributes of one inode", Limit: maxAttrBytes}
		}
		if _, ok := set[name]; ok {
			return nil, c.fail("xattr", "%q twice", name)
		}
		set[name] = value
	}
	return set, nil
}

// readXattr reads a key and its value, which may stand elsewhere.
func (r *Reader) readXattr(t *attrTable, c *metaCursor) (name, value string, err error) {
	var buf [8]byte
	if err := c.read(buf[:disk.XattrKeySize]); err != nil {
		return "", "", err
	}
	prefix, n, err := disk.DecodeXattrKey(buf[:])
	if err != nil {
		return "", "", c.fail("xattr", "%w", err)
	}
	text, _ := disk.XattrPrefix(prefix)
	if n+len(text) > maxAttrName {
		return "", "", c.fail("xattr", "name of %d bytes", n)
	}
	var key [maxAttrName]byte
	k := copy(key[:], text)
	if err := c.read(key[k : k+n]); err != nil {
		return "", "", err
	}
	name = string(key[:k+n])
	if prefix&disk.XattrOutOfLine == 0 {
		value, err = c.readXattrValue()
		return name, value, err
	}
	if err := c.read(buf[:disk.XattrValueSize]); err != nil {
		return "", "", err
	}
	if size, err := disk.DecodeXattrValueSize(buf[:]); err != nil || size != 8 {
		return "", "", c.fail("xattr", "reference of %d bytes", size)
	}
	if err := c.read(buf[:]); err != nil {
		return "", "", err
	}
	ref := disk.Ref(binary.LittleEndian.Uint64(buf[:]))
	there, err := r.cursor(&t.values, ref.Block(), ref.Offset())
	if err != nil {
		return "", "", err
	}
	value, err = there.readXattrValue()
	return name, value, err
}

func (c *metaCursor) readXattrValue() (string, error) {
	var buf [disk.XattrValueSize]byte
	if err := c.read(buf[:]); err != nil {
		return "", err
	}
	size, err := disk.DecodeXattrValueSize(buf[:])
	if err != nil {
		return "", c.fail("xattr", "%w", err)
	}
	if size > maxAttrValue {
		return "", c.fail("xattr", "value of %d bytes", size)
	}
	value := make([]byte, size)
	if err := c.read(value); err != nil {
		return "", err
	}
	return string(value), nil
}
