package meter

import (
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const interval = 100 * time.Millisecond

// Reading is the state of a task.
type Reading struct {
	Stage, Name string
	Done, Total int64 // Total is 0 if it is not known
	Ended       bool
}

// Meter reports tasks. A nil Meter, like one started without a function,
// counts and reports nothing.
type Meter struct {
	report func(Reading)
	wake   chan struct{}
	stop   chan struct{}
	done   chan struct{}

	mu    sync.Mutex
	tasks []*Task
}

// Task is a part of the work.
type Task struct {
	m           *Meter
	stage, name string
	total       int64
	count       atomic.Int64
	ended       atomic.Bool

	// Touched by the goroutine only.
	shown    int64 // last reported
	reported bool
	closed   bool // its end has been reported
}

// Start returns a Meter that calls report, which may be nil.
func Start(report func(Reading)) *Meter {
	if report == nil {
		return nil
	}
	m := &Meter{
		report: report,
		wake:   make(chan struct{}, 1),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	go m.run()
	return m
}

// Begin adds a task of total units; 0 if nobody knows how many.
func (m *Meter) Begin(stage, name string, total int64) *Task {
	t := &Task{m: m, stage: stage, name: name, total: total}
	if m == nil {
		return t
	}
	m.mu.Lock()
	m.tasks = append(m.tasks, t)
	m.mu.Unlock()
	m.nudge()
	return t
}

// Stop reports what is left and waits until the last report has returned.
func (m *Meter) Stop() {
	if m == nil {
		return
	}
	close(m.stop)
	<-m.done
}

// Add counts n units.
func (t *Task) Add(n int64) { t.count.Add(n) }

// Done returns the units counted so far.
func (t *Task) Done() int64 { return t.count.Load() }

// End says that no more units come.
func (t *Task) End() {
	if t.ended.Swap(true) || t.m == nil {
		return
	}
	t.m.nudge()
}

// Reader returns a reader that counts the bytes read through it.
func (t *Task) Reader(r io.Reader) io.Reader { return countingReader{r, t} }

type countingReader struct {
	r io.Reader
	t *Task
}

func (c countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.t.Add(int64(n))
	return n, err
}

func (m *Meter) nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *Meter) run() {
	defer close(m.done)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-m.stop:
			m.sweep(true)
			return
		case <-m.wake:
			m.sweep(false)
		case <-ticker.C:
			m.sweep(true)
		}
	}
}

// sweep reports tasks that have begun or ended since the last time, and with
// progress set also those that have come further.
func (m *Meter) sweep(progress bool) {
	m.mu.Lock()
	tasks := m.tasks
	m.mu.Unlock()
	closed := false
	for _, t := range tasks {
		m.show(t, progress)
		closed = closed || t.closed
	}
	if !closed {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := make([]*Task, 0, len(m.tasks))
	for _, t := range m.tasks {
		if !t.closed {
			kept = append(kept, t)
		}
	}
	m.tasks = kept
}

func (m *Meter) show(t *Task, progress bool) {
	ended := t.ended.Load()
	done := t.count.Load()
	if !ended && t.reported && (!progress || done == t.shown) {
		return
	}
	t.reported, t.shown, t.closed = true, done, ended
	m.report(Reading{Stage: t.stage, Name: t.name, Done: done, Total: t.total, Ended: ended})
}
