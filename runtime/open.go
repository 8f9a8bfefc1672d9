package runtime

import "sync"

// openFiles are the files of a plan's images. The plan holds them, and so does all that needs them after the plan has been closed: a start that
// goes on, a server of the image, a process that may have to become one. The last to let go closes them.
type openFiles struct {
	mu      sync.Mutex
	holders int
	closed  bool // the plan is
	close   func() error
}

// begin holds the files for a start, unless the plan is closed.
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

// end closes the plan.
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
