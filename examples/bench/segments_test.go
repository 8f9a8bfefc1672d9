package main

import (
	"path/filepath"
	"testing"

	"hpcimg/convert"
	"hpcimg/examples/bench/images"
)

// TestSegments: of a second version little goes over the wire.
func TestSegments(t *testing.T) {
	layout := versionsOfSomething(t)
	for _, form := range []convert.Form{convert.FormSIF, convert.FormSquashfs} {
		host, stop := newRegistry()
		defer stop()
		s := &segments{form: form, layout: layout, dir: filepath.Join(t.TempDir(), "work"), repo: host + "/bench"}
		if err := s.hold(t.Context(), images.Versions()[:2]); err != nil {
			t.Fatal(err)
		}
		first, second := s.rows[0], s.rows[1]
		if first.pushed.bytes < first.size || first.cold.bytes < first.size || first.warm.bytes < first.size {
			t.Errorf("%s: %+v", form, first)
		}
		for what, n := range map[string]transfer{"pushed": second.pushed, "with the cache": second.warm, "with the file": second.reused} {
			if n.bytes > second.size/2 { // most of a small SIF file is its tables
				t.Errorf("%s: %d bytes of %d %s", form, n.bytes, second.size, what)
			}
		}
		if len(s.table()) != 3 {
			t.Errorf("%s: %v", form, s.table())
		}
	}
}
