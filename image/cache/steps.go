package cache

// steps runs every operation by which the store changes, and those on which a lookup depends. Tests put a
// function in between that fails an operation, forgets it, or ends the world after it.
type steps struct {
	hook func(op, path string, do func() error) error
}

func (s steps) do(op, path string, do func() error) error {
	if s.hook == nil {
		return do()
	}
	return s.hook(op, path, do)
}
