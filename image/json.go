package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// decode checks raw with checkJSON and decodes it into v.
func decode(document string, raw []byte, fields []string, v any) error {
	if err := checkJSON(document, raw, fields); err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		if te, ok := err.(*json.UnmarshalTypeError); ok {
			return documentError(document, te.Field, "is a JSON %s", te.Value)
		}
		return documentError(document, "", "%w", err)
	}
	return nil
}

// checkJSON walks over raw before anything is built from it. It refuses what readers of JSON disagree about, so that nobody can
// show one image to a scanner and another one to us: duplicate keys, names of the given fields in other letter case (which
// encoding/json takes for the field), and data behind the document. It bounds nesting and the members of each array and
// object, and with that what decoding can cost.
func checkJSON(document string, raw []byte, fields []string) error {
	w := &jsonWalker{document: document, dec: json.NewDecoder(bytes.NewReader(raw)), fields: map[string]string{}}
	w.dec.UseNumber()
	for _, f := range fields {
		w.fields[fold(f)] = f
		w.fields[f] = f
	}
	tok, err := w.dec.Token()
	if err != nil {
		return documentError(document, "", "%w", noEOF(err))
	}
	if tok != json.Delim('{') {
		return documentError(document, "", "is not a JSON object")
	}
	if err := w.object(1); err != nil {
		return err
	}
	if _, err := w.dec.Token(); err != io.EOF {
		return documentError(document, "", "has data after the JSON object")
	}
	return nil
}

type jsonWalker struct {
	document string
	dec      *json.Decoder
	fields   map[string]string // the right spelling, by itself and folded
	path     []step
	keys     []string // of the objects on the path
}

// step is a key of an object, or an index of an array. The path is put together only for an error: documents are of millions of
// values.
type step struct {
	key   string
	index int // -1 for a key
}

// fail reports what is wrong at the place that the walker has come to.
func (w *jsonWalker) fail(format string, args ...any) error {
	var b strings.Builder
	for i, s := range w.path {
		switch {
		case s.index >= 0:
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
			continue
		case i > 0:
			b.WriteByte('.')
		}
		b.WriteString(clip(s.key, 80))
	}
	return documentError(w.document, b.String(), format, args...)
}

func (w *jsonWalker) object(depth int) error {
	from := len(w.keys)
	defer func() { w.keys = w.keys[:from] }()
	var many map[string]bool // the keys too, once there are many
	free := w.freeKeys()
	for w.dec.More() {
		tok, err := w.dec.Token()
		if err != nil {
			return w.fail("%w", noEOF(err))
		}
		if len(w.keys)-from == maxMembers {
			return w.fail("has more than %d members", maxMembers)
		}
		key, _ := tok.(string)
		w.path = append(w.path, step{key, -1})
		if many[key] || many == nil && slices.Contains(w.keys[from:], key) {
			return w.fail("appears twice")
		}
		if right := w.rightSpelling(key); right != key && !free {
			return w.fail("has to be spelled %q", right)
		}
		w.keys = append(w.keys, key)
		if many = w.index(many, from); many != nil {
			many[key] = true
		}
		if err := w.value(depth); err != nil {
			return err
		}
		w.path = w.path[:len(w.path)-1]
	}
	return w.end()
}

// index returns a map of the keys from the given one on, if there are too many to look through them all. Most objects have few, and a
// document has many objects.
func (w *jsonWalker) index(many map[string]bool, from int) map[string]bool {
	const few = 16
	if many != nil || len(w.keys)-from <= few {
		return many
	}
	many = make(map[string]bool)
	for _, key := range w.keys[from:] {
		many[key] = true
	}
	return many
}

// rightSpelling returns how a key has to be spelled.
func (w *jsonWalker) rightSpelling(key string) string {
	if right, ok := w.fields[key]; ok {
		return right
	}
	if right, ok := w.fields[fold(key)]; ok {
		return right
	}
	return key
}

func (w *jsonWalker) array(depth int) error {
	for i := 0; w.dec.More(); i++ {
		if i == maxMembers {
			return w.fail("has more than %d elements", maxMembers)
		}
		w.path = append(w.path, step{"", i})
		if err := w.value(depth); err != nil {
			return err
		}
		w.path = w.path[:len(w.path)-1]
	}
	return w.end()
}

func (w *jsonWalker) value(depth int) error {
	tok, err := w.dec.Token()
	if err != nil {
		return w.fail("%w", noEOF(err))
	}
	delim, nested := tok.(json.Delim)
	if !nested {
		return nil
	}
	if depth == maxDepth {
		return documentError(w.document, "", "is nested deeper than %d levels", maxDepth)
	}
	if delim == '{' {
		return w.object(depth + 1)
	}
	return w.array(depth + 1)
}

// end takes the closing bracket.
func (w *jsonWalker) end() error {
	if _, err := w.dec.Token(); err != nil {
		return w.fail("%w", noEOF(err))
	}
	return nil
}

// freeKeys reports whether the keys of the object that the walker has come to are the author's own.
func (w *jsonWalker) freeKeys() bool {
	if len(w.path) == 0 {
		return false
	}
	switch w.path[len(w.path)-1].key {
	case "annotations", "Labels", "Volumes", "ExposedPorts":
		return true
	}
	return false
}

// fold maps names that encoding/json takes for each other to the same string. That is more than letter case: the long s is an s to
// it, and the Kelvin sign a k.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		for {
			next := unicode.SimpleFold(r)
			if next <= r {
				return next // the smallest of its orbit
			}
			r = next
		}
	}, s)
}

// noEOF says that the document ends early, where the decoder just says EOF.
func noEOF(err error) error {
	if err == io.EOF {
		return fmt.Errorf("JSON ends early: %w", io.ErrUnexpectedEOF)
	}
	return err
}
