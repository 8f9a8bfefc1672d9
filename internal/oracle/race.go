//go:build race

package oracle

// Race says that the race detector is on and makes everything several times slower. A test of thousands of inputs that differ
// in nothing that concurrency could see may take fewer of them: the run as an ordinary user takes all.
const Race = true
