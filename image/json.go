package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
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
		w.fields[strings.ToLower(f)] = f
	}
	tok, err := w.dec.Token()
	if err != nil {
		return documentError(document, "", "%w", noEOF(err))
	}
	if tok != json.Delim('{') {
		return documentError(document, "", "is not a JSON object")
	}
	if err := w.object("", 1); err != nil {
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
	fields   map[string]string // lower case to the one right spelling
}

func (w *jsonWalker) object(path string, depth int) error {
	seen := map[string]bool{}
	for w.dec.More() {
		tok, err := w.dec.Token()
		if err != nil {
			return documentError(w.document, path, "%w", noEOF(err))
		}
		key, _ := tok.(string)
		at := clip(key, 80)
		if path != "" {
			at = path + "." + at
		}
		if seen[key] {
			return documentError(w.document, at, "appears twice")
		}
		if right, known := w.fields[strings.ToLower(key)]; known && right != key && !freeKeys(path) {
			return documentError(w.document, at, "has to be spelled %q", right)
		}
		seen[key] = true
		if len(seen) > maxMembers {
			return documentError(w.document, path, "has more than %d members", maxMembers)
		}
		if err := w.value(at, depth); err != nil {
			return err
		}
	}
	return w.end(path)
}

func (w *jsonWalker) array(path string, depth int) error {
	for i := 0; w.dec.More(); i++ {
		if i == maxMembers {
			return documentError(w.document, path, "has more than %d elements", maxMembers)
		}
		if err := w.value(path+"["+strconv.Itoa(i)+"]", depth); err != nil {
			return err
		}
	}
	return w.end(path)
}

func (w *jsonWalker) value(path string, depth int) error {
	tok, err := w.dec.Token()
	if err != nil {
		return documentError(w.document, path, "%w", noEOF(err))
	}
	delim, nested := tok.(json.Delim)
	if !nested {
		return nil
	}
	if depth == maxDepth {
		return documentError(w.document, "", "is nested deeper than %d levels", maxDepth)
	}
	if delim == '{' {
		return w.object(path, depth+1)
	}
	return w.array(path, depth+1)
}

// end takes the closing bracket.
func (w *jsonWalker) end(path string) error {
	if _, err := w.dec.Token(); err != nil {
		return documentError(w.document, path, "%w", noEOF(err))
	}
	return nil
}

// freeKeys reports whether the keys of the object at path are the author's own.
func freeKeys(path string) bool {
	last := path[strings.LastIndexByte(path, '.')+1:]
	switch last {
	case "annotations", "Labels", "Volumes", "ExposedPorts":
		return true
	}
	return false
}

// noEOF says that the document ends early, where the decoder just says EOF.
func noEOF(err error) error {
	if err == io.EOF {
		return fmt.Errorf("JSON ends early: %w", io.ErrUnexpectedEOF)
	}
	return err
}
