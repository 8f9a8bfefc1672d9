package runtime

import "sync"

// openFiles are files of a plan, its images, or of a session, its directory. That holds them, and so does all that needs them after it has been
// closed: a start that goes on, a server of the image, a process that may have to become one or to lead. The last to let go closes them.
type openFiles struct {
	mu      sync.Mutex
	holders int
	closed  bool // by who has opened them
	close   func() error
}

func newOpenFiles(closeAll func() error) *openFiles {
	return &openFiles{holders: 1, close: closeAll}
}

// begin holds the files for something new, unless they are closed.
func (o *openFiles) begin() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.holders++
	return true
}

// hold is for who has begun.
func (o *openFiles) hold() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.holders++
}

// end closes them for who has opened them. A second call does nothing.
func (o *openFiles) end() error {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return nil
	}
	o.closed = true
	o.mu.Unlock()
	return o.letGo()
}

func (o *openFiles) letGo() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.holders--; o.holders > 0 {
		return nil
	}
	return o.close()
}
