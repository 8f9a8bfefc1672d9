package mount

// Answerer makes replies of messages, without a kernel.
type Answerer struct {
	a *answerer
	r reply
}

// NewAnswerer returns an Answerer for a tree.
func NewAnswerer(t Tree, o *ServeOptions) *Answerer {
	return &Answerer{a: newAnswerer(t, o.withDefaults(2), 4096)}
}

// Answer returns the reply to a message as one piece, nil if there is none.
func (a *Answerer) Answer(msg []byte) []byte {
	if !a.a.answer(msg, &a.r) {
		return nil
	}
	out := append([]byte(nil), a.r.head...)
	for _, p := range a.r.body.pieces {
		out = append(out, p...)
	}
	a.r.body.release()
	return out
}

// WireNode is a node as the protocol names it.
func (a *Answerer) WireNode(n NodeID) uint64 { return a.a.wireNode(n) }

// Held is how many blocks of a tree of [NewTree] are in use.
func Held(t Tree) int {
	n := 0
	image, _ := t.(*imageTree)
	for i := range image.blocks.shards {
		s := &image.blocks.shards[i]
		s.mu.Lock()
		for b := s.ring.next; b != &s.ring; b = b.next {
			n += b.users
		}
		s.mu.Unlock()
	}
	return n
}
