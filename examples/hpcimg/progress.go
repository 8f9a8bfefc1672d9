package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"hpcimg/convert"
)

func termIsTerminal(fd int) bool { return term.IsTerminal(fd) }

// reporter shows how far a long task is. Its Event may be called from any
// goroutine.
type reporter interface {
	Event(convert.Event)
	Close() // waits until the last state is shown
}

// newReporter picks the reporter that the flags and w ask for.
func (f *flags) newReporter(w io.Writer) (reporter, error) {
	mode := f.progress
	if f.quiet {
		mode = "none"
	}
	switch mode {
	case "none":
		return noReporter{}, nil
	case "plain":
		return newPlainReporter(w), nil
	case "auto":
		if f.isTerminal(w) {
			return newBarReporter(w), nil
		}
		return newPlainReporter(w), nil
	default:
		return nil, usagef("--progress: %q is not auto, plain or none", f.progress)
	}
}

type noReporter struct{}

func (noReporter) Event(convert.Event) {}
func (noReporter) Close()              {}

// plainReporter prints a line when a stage of something begins and when it is
// done, and at most one every few seconds in between, so that a log stays
// readable and a person can tell a slow task from a hung one.
type plainReporter struct {
	mu   sync.Mutex
	w    io.Writer
	last map[string]time.Time
	done map[string]bool
}

const plainInterval = 5 * time.Second

func newPlainReporter(w io.Writer) *plainReporter {
	return &plainReporter{w: w, last: map[string]time.Time{}, done: map[string]bool{}}
}

func (p *plainReporter) Event(e convert.Event) {
	key, ok := eventKey(e)
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	finished := e.Total > 0 && e.Done >= e.Total
	if p.done[key] {
		return
	}
	if finished {
		p.done[key] = true
		fmt.Fprintf(p.w, "%s: done, %s\n", key, byteCount(e.Done))
		return
	}
	if last, seen := p.last[key]; seen && time.Since(last) < plainInterval {
		return
	} else if seen {
		fmt.Fprintf(p.w, "%s: %s of %s\n", key, byteCount(e.Done), byteCount(e.Total))
	} else if e.Total > 0 {
		fmt.Fprintf(p.w, "%s: %s\n", key, byteCount(e.Total))
	} else {
		fmt.Fprintf(p.w, "%s\n", key)
	}
	p.last[key] = time.Now()
}

func (p *plainReporter) Close() {}

// barReporter draws one bar for each stage and thing, such as a layer.
type barReporter struct {
	mu       sync.Mutex
	progress *mpb.Progress
	bars     map[string]*mpb.Bar
}

func newBarReporter(w io.Writer) *barReporter {
	return &barReporter{
		progress: mpb.New(mpb.WithOutput(w), mpb.WithWidth(60), mpb.WithRefreshRate(150*time.Millisecond)),
		bars:     map[string]*mpb.Bar{},
	}
}

func (b *barReporter) Event(e convert.Event) {
	key, ok := eventKey(e)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	bar := b.bars[key]
	if bar == nil {
		bar = b.progress.AddBar(max(e.Total, 0),
			mpb.PrependDecorators(decor.Name(key, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f", decor.WCSyncSpace)))
		b.bars[key] = bar
	}
	if e.Total > 0 {
		bar.SetTotal(e.Total, false)
	}
	bar.SetCurrent(e.Done)
	if e.Total > 0 && e.Done >= e.Total {
		bar.SetTotal(e.Total, true)
	}
}

func (b *barReporter) Close() {
	b.mu.Lock()
	for _, bar := range b.bars {
		if !bar.Completed() {
			bar.Abort(false)
		}
	}
	b.mu.Unlock()
	b.progress.Wait()
}

// Stages of events that verbs make of their own.
const (
	stagePush   convert.Stage = "push"
	stageVerify convert.Stage = "verify"
)

// eventKey is what a line is about. The stages that do not count bytes are over
// before anybody could read of them.
func eventKey(e convert.Event) (key string, ok bool) {
	switch e.Stage {
	case convert.StageLayer, convert.StageRepack, convert.StageWrite, stagePush, stageVerify:
		return strings.TrimSpace(string(e.Stage) + " " + e.Name), true
	default:
		return "", false
	}
}

// byteCount prints n as a person reads it.
func byteCount(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, exp := float64(n)/unit, 0
	for value >= unit && exp < 4 {
		value /= unit
		exp++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[exp])
}
