package cache

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// leaseTimes are the tempi of single flight.
type leaseTimes struct {
	beat     time.Duration // between two heartbeats of a leader
	stale    time.Duration // without a heartbeat, after which a leader is gone
	firstNap time.Duration // of a waiter
	lastNap  time.Duration
	patience time.Duration // of a waiter, in all
}

func defaultLeaseTimes() leaseTimes {
	return leaseTimes{
		beat:     10 * time.Second,
		stale:    60 * time.Second,
		firstNap: 20 * time.Millisecond,
		lastNap:  2 * time.Second,
		patience: time.Hour,
	}
}

const maxLease = 1024

// leaseText is what the file of a lease says of its holder.
type leaseText struct {
	Host  string `json:"host"`
	PID   int    `json:"pid"`
	Start string `json:"start"` // of the process, since pids come back
	Token string `json:"token"` // makes it one's own
}

// Once lets one caller of many, in this process, in others and on other nodes, do the work that name stands
// for. It returns nil, nil as soon as ready reports that the work is done, which it asks now and then; or a
// release function to the one caller that is to do it, which that one calls when it is done or has failed. When
// it has failed, or died, the next one is chosen.
//
// A lease only saves work. Whatever is wrong with it, the answer is to go ahead, so two callers may be chosen;
// what they publish is the same. The only errors are the context's.
func (c *Cache) Once(ctx context.Context, name string, ready func() bool) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if ready() {
		return nil, nil
	}
	l := c.newLease(name)
	if err := c.mkdir(filepath.Dir(l.path)); err != nil {
		return c.goAhead(name, err), nil
	}
	nap, start := c.times.firstNap, time.Now()
	for {
		held, err := l.acquire()
		switch {
		case err != nil:
			return c.goAhead(name, err), nil
		case held && ready(): // the last holder has just published
			l.release()
			return nil, nil
		case held:
			return l.keep(), nil
		case time.Since(start) > c.times.patience:
			return c.goAhead(name, errors.New("somebody has been at it for too long")), nil
		}
		if err := sleep(ctx, nap/2+mathrand.N(nap/2+1)); err != nil {
			return nil, err
		}
		nap = min(nap*3/2, c.times.lastNap)
		if ready() {
			return nil, nil
		}
	}
}

func (c *Cache) goAhead(name string, err error) func() {
	c.opts.Logger.Debug("cache: working without a lease", "name", name, "error", err)
	return func() {}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lease is one caller's view of a lease file.
type lease struct {
	c    *Cache
	path string
	text string

	skew  time.Duration // what the server's clock is ahead of ours
	asked bool
}

func (c *Cache) newLease(name string) *lease {
	sum := sha256.Sum256([]byte(name))
	text, _ := json.Marshal(leaseText{Host: c.host.tag, PID: c.host.pid, Start: startTime(c.host.pid), Token: rand.Text()})
	return &lease{c: c, path: filepath.Join(c.dir, layout, leaseDir, fmt.Sprintf(".lease-%x", sum[:20])), text: string(text)}
}

// acquire takes the lease if nobody has it, or if whoever has it is gone.
func (l *lease) acquire() (bool, error) {
	stale, err := l.look(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return l.create()
	}
	if errors.Is(err, syscall.ESTALE) { // removed by another node; look again
		return false, nil
	}
	if err != nil || !stale {
		return false, err
	}
	return l.takeOver()
}

// create makes the file of the lease, if there is none, with its text in it: an empty one would have to grow
// old before anybody could tell whether its holder is alive.
func (l *lease) create() (bool, error) {
	steps := l.c.steps
	f, temp, err := l.c.createTemp(filepath.Dir(l.path), "lease")
	if err != nil {
		return false, err
	}
	defer l.removeFile(temp)
	err = steps.do("write", temp, func() error {
		_, err := f.WriteString(l.text)
		return err
	})
	if err = errors.Join(err, steps.do("close", temp, f.Close)); err != nil {
		return false, err
	}
	err = steps.do("link", l.path, func() error { return os.Link(temp, l.path) })
	if errors.Is(err, fs.ErrExist) {
		if !linked(temp, l.path) {
			return false, nil
		}
		err = nil
	}
	if err != nil {
		return false, err // without hard links there is no single flight
	}
	return true, nil
}

// takeOver replaces a stale lease. Another lease guards it: else one who has looked before somebody else took over would
// then remove that one's new lease.
func (l *lease) takeOver() (bool, error) {
	guard := &lease{c: l.c, path: l.path + ".guard", text: l.text, skew: l.skew, asked: l.asked}
	held, err := guard.create()
	if err != nil {
		return false, err
	}
	if !held {
		if dead, err := guard.look(guard.path); err == nil && dead {
			l.removeFile(guard.path)
		}
		return false, nil
	}
	defer guard.release()
	if still, err := l.look(l.path); err != nil || !still {
		return false, nil
	}
	l.removeFile(l.path)
	return l.create()
}

// look reports whether the holder of a lease is gone.
func (l *lease) look(path string) (stale bool, err error) {
	b, info, err := l.read(path)
	if err != nil {
		return false, err
	}
	var text leaseText
	if json.Unmarshal(b, &text) == nil && text.Host == l.c.host.tag && text.PID > 0 && !alive(text.PID, text.Start) {
		return true, nil
	}
	if !l.asked {
		now, err := l.c.serverTime(filepath.Dir(path))
		if err != nil {
			return false, err
		}
		l.asked, l.skew = true, time.Until(now)
	}
	return time.Since(info.ModTime())+l.skew > l.c.times.stale, nil
}

// read opens a lease file, which makes NFS ask its server about it.
func (l *lease) read(path string) ([]byte, fs.FileInfo, error) {
	f, info, err := l.c.openFile(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLease))
	return b, info, err
}

// keep starts the heartbeat and returns the function that ends it.
func (l *lease) keep() (release func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(l.c.times.beat)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if l.ours() {
					_ = l.c.steps.do("touch", l.path, func() error { return touch(l.path) })
				}
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(stop)
		<-stopped
		l.release()
	})
}

// ours reports whether nobody has taken over.
func (l *lease) ours() bool {
	b, _, err := l.read(l.path)
	return err == nil && string(b) == l.text
}

func (l *lease) release() {
	if l.ours() {
		l.removeFile(l.path)
	}
}

func (l *lease) removeFile(path string) {
	_ = l.c.steps.do("remove", path, func() error { return os.Remove(path) })
}
