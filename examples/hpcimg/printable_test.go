package main

import (
	"bytes"
	"errors"
	"log/slog"
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

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain é": "plain é", "a\x1b[2Jb": `a\x1b[2Jb`, "two\nlines\t.": `two\x0alines\x09.`,
		"c1 \u009b2J": `c1 \x9b2J`, "raw \x9b2J": `raw \x9b2J`, "gnp.\u202eexe": `gnp.\u202eexe`,
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got, want := printableText("#!/bin/sh\n\techo \x1b[2J\r\n"), "#!/bin/sh\n\techo \\x1b[2J\\x0d\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	var out bytes.Buffer
	printLabels(&out, map[string]string{"a\x1b": "b\x07"})
	if got, want := out.String(), `a\x1b: b\x07`+"\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// What the packages warn of is printed as a sentence, unless it is about a file that nobody has named.
func TestWarningSentences(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(&warnings{w: &out, named: []string{"old.sif"}})
	log.Warn("image cannot be reused", "path", "old.sif", "err", errors.New("others may have changed it\nor not\x1b"))
	log.Warn("image cannot be reused", "path", "dest.sif", "err", errors.New("no"))
	log.Warn("segment is damaged", "key", "0123", "err", errors.New("bad"))
	log.Debug("layer read", "digest", "x")
	want := `hpcimg: warning: image cannot be reused: old.sif: others may have changed it; or not\x1b` + "\n" +
		"hpcimg: warning: segment is damaged: bad\n"
	if out.String() != want {
		t.Errorf("%s, want %s", out.String(), want)
	}
}
