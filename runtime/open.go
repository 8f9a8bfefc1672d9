package runtime

import "sync"

// openFiles are the files of a plan's images. The plan holds them, and so does all that needs them after the plan has been closed: a start that
// goes on, a server of the image, a process that may have to become one. The last to let go closes them.
type openFiles struct {
	mu      sync.Mutex
	holders int
	close   func() error
}

// hold reports whether the files are open still, and keeps them so.
func (o *openFiles) hold() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.holders == 0 {
		return false
	}
	o.holders++
	return true
}

func (o *openFiles) letGo() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.holders--; o.holders > 0 {
		return nil
	}
	return o.close()
}
