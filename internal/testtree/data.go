package testtree

import (
	"encoding/binary"
	"math/rand/v2"
)

// Bytes returns size bytes that do not compress, the same ones for the same seed.
func Bytes(seed uint64, size int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	data := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(data) // never fails
	return data
}

// Zeros returns size zero bytes: a hole, for writers that look for one.
func Zeros(size int) []byte { return make([]byte, size) }

// Text returns size bytes that compress about as well as program text, the same ones for the same seed.
func Text(seed uint64, size int) []byte {
	words := []string{
		"return", "error", "nil", "func", "the", "offset", "of", "block", "if", "err", "!=", "size", "range", "x", "y", "i",
		"0x1f", "4096", "(", ")", "{\n\t", "}\n", "; ", "// ", "inode", "layer", "digest", "import", "self", "def", "class", "=",
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	data := make([]byte, 0, size+16)
	for len(data) < size {
		// The product of two draws favours the first words, as languages do.
		data = append(data, words[rng.IntN(len(words))*rng.IntN(len(words))/len(words)]...)
		data = append(data, ' ')
	}
	return data[:size]
}
