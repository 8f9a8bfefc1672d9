package main

import "math/rand/v2"

// growth is an endless, cheap stream that compresses to about a quarter: of
// four kilobytes one is random and three repeat a table.
type growth struct {
	rng   *rand.ChaCha8
	table [3 << 10]byte
	at    int
}

func newGrowth() *growth {
	g := &growth{rng: rand.NewChaCha8([32]byte{})}
	_, _ = g.rng.Read(g.table[:]) // never fails
	return g
}

func (g *growth) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		if g.at < len(g.table) {
			k := copy(p[n:], g.table[g.at:])
			n, g.at = n+k, g.at+k
			continue
		}
		k := min(len(p)-n, 1<<10)
		_, _ = g.rng.Read(p[n : n+k])
		n, g.at = n+k, 0
	}
	return len(p), nil
}
