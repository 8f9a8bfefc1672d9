package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"strings"
)

// discardLogger keeps the registry's log of requests out of the story.
func discardLogger() *log.Logger { return log.New(io.Discard, "", 0) }

// show prints what the second layer made of the first, read without a mount.
func (s *story) show() error {
	version, err := fs.ReadFile(s.reader, "srv/version.txt")
	if err != nil {
		return err
	}
	s.say("srv/version.txt says %q: the second layer replaced it", strings.TrimSpace(string(version)))
	if _, err := fs.Stat(s.reader, "srv/build.log"); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("srv/build.log: got %v, want it removed by the second layer", err)
	}
	s.say("srv/build.log is not there: the second layer removed it")
	entries, err := fs.ReadDir(s.reader, "bin")
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	s.say("bin has %s", strings.Join(names, " "))
	return nil
}
