package main

import (
	"fmt"
	"time"

	"hpcimg/image"
)

// openOffline opens the cache that --offline cannot do without.
func (f *flags) openOffline() error {
	if f.noCache {
		return usagef("--offline takes everything from the cache, which --no-cache forbids")
	}
	if f.blobs != nil {
		return nil
	}
	c, err := f.existingCache()
	if err != nil {
		return err
	}
	f.blobs = c
	return nil
}

// noteOffline says how old it is what a tag is taken to lead to.
func (f *flags) noteOffline(ref image.Reference, d image.Descriptor, when time.Time) {
	if when.IsZero() || f.quiet {
		return
	}
	fmt.Fprintf(f.std.err, "hpcimg: offline: %s was %s %s ago\n", ref, d.Digest, age(time.Since(when)))
}

// age is a duration in the unit that says enough of it.
func age(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", max(int(d.Seconds()), 0))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
