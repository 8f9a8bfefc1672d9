package main

import (
	"bytes"
	"errors"
	"testing"
	"testing/fstest"
)

// Names of a hostile image do not reach a terminal as they are.
func TestHostileNames(t *testing.T) {
	const name = "a\x1b]0;title\a\nb"
	fsys := fstest.MapFS{name: {}}
	for terminal, want := range map[bool]string{false: name + "\n", true: `a\x1b]0;title\x07\x0ab` + "\n"} {
		var out bytes.Buffer
		p := lsPrinter{out: &out, terminal: terminal}
		if err := list(fsys, ".", false, p.print); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("terminal %v: %q, want %q", terminal, out.String(), want)
		}
	}
	var out bytes.Buffer
	printError(&out, errors.New("open x\x1b[2J: no"))
	if want := `hpcimg: open x\x1b[2J: no` + "\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
