package inflate

import "math/bits"

// A code is decoded by one look-up of its first bits (litBits, distBits, preBits) and, for longer codes, a second one
// in a sub-table behind the primary entries. An entry says everything about its symbol:
//
//	literal    1<<31 | byte<<16 | n<<8 | n                n: bits of the code
//	length     base<<16         | n<<8 | n+extra
//	distance   base<<16         | n<<8 | n+extra
//	end        flagSpecial | flagEnd   | n<<8 | n
//	sub-table  flagSpecial | flagSub   | first<<16 | width<<8 | primary bits
//	unassigned flagSpecial
//
// so the bits to drop are always the lowest six bits, and nothing above them disturbs a count kept modulo 64.
const (
	flagLiteral = 1 << 31
	flagSpecial = 1 << 15
	flagSub     = 1 << 14
	flagEnd     = 1 << 13

	maxCodeLen = 15
	maxLitLen  = 286 // symbols a dynamic block may define
	maxDist    = 30
	numPre     = 19

	litBits  = 11
	distBits = 9
	preBits  = 7

	// Powers of two above the largest primary table with its sub-tables (2342, 594 and 128 entries for complete codes).
	litSize  = 4096
	distSize = 1024
	preSize  = 1 << preBits
)

// litEntries and distEntries hold each symbol's entry without its code length.
var (
	litEntries  = makeLitEntries()
	distEntries = makeDistEntries()
	preEntries  = makePreEntries()
)

func makeLitEntries() (t [288]uint32) {
	for i := range 256 {
		t[i] = flagLiteral | uint32(i)<<16
	}
	t[256] = flagSpecial | flagEnd
	base := uint32(3)
	for i := range uint32(28) {
		extra := uint32(0)
		if i >= 8 {
			extra = i/4 - 1
		}
		t[257+i] = base<<16 | extra
		base += 1 << extra
	}
	t[285] = 258 << 16
	t[286], t[287] = flagSpecial, flagSpecial
	return t
}

func makeDistEntries() (t [32]uint32) {
	base := uint32(1)
	for i := range uint32(maxDist) {
		extra := uint32(0)
		if i >= 4 {
			extra = i/2 - 1
		}
		t[i] = base<<16 | extra
		base += 1 << extra
	}
	t[30], t[31] = flagSpecial, flagSpecial
	return t
}

func makePreEntries() (t [numPre]uint32) {
	for i := range t {
		t[i] = uint32(i) << 16
	}
	return t
}

// build fills table for the canonical code of the given lengths. It accepts exactly what compress/flate does: complete
// codes, the code of a single one-bit symbol, and no code at all; using what a code leaves unassigned is an error later.
func build(table []uint32, tableBits int, entries []uint32, lens []uint8) bool {
	var count, first [maxCodeLen + 2]int
	for _, n := range lens {
		count[n]++
	}
	used := len(lens) - count[0]
	count[0] = 0
	space := 0
	for n := 1; n <= maxCodeLen; n++ {
		space = space<<1 + count[n]
		first[n+1] = first[n] + count[n]
	}
	if space != 1<<maxCodeLen {
		return buildDegenerate(table[:1<<tableBits], entries, lens, used, count[1])
	}

	// Symbols in the order of their codes: by length, then by value.
	var sorted [288]uint16
	next := first
	for sym, n := range lens {
		if n != 0 {
			sorted[next[n]] = uint16(sym)
			next[n]++
		}
	}

	// Codes no longer than the primary index: the table of n-1 bits, doubled, is the table of n bits less the codes of n bits.
	code, i := 0, 0
	for n := 1; n <= tableBits; n++ {
		size := 1 << n
		copy(table[size>>1:size], table[:size>>1])
		code <<= 1
		for range count[n] {
			at := int(bits.Reverse16(uint16(code)) >> (16 - n))
			table[at] = entries[sorted[i]] + uint32(n)*0x101
			code++
			i++
		}
	}
	if i < used {
		buildSub(table, tableBits, entries, sorted[i:used], count[:], code)
	}
	return true
}

// buildDegenerate fills the table of a code that is not complete, if it is one of the two that are allowed.
func buildDegenerate(table, entries []uint32, lens []uint8, used, short int) bool {
	if used > 1 || used != short {
		return false
	}
	for i := range table {
		table[i] = flagSpecial
	}
	for sym, n := range lens {
		if n != 0 {
			for i := 0; i < len(table); i += 2 {
				table[i] = entries[sym] + 0x101
			}
		}
	}
	return true
}

// buildSub adds the symbols with codes longer than tableBits, of which code>>1 (of tableBits bits) is the first prefix.
func buildSub(table []uint32, tableBits int, entries []uint32, sorted []uint16, count []int, code int) {
	end := 1 << tableBits
	n := tableBits
	left := 0
	start, width, prefix := 0, 0, -1
	for _, sym := range sorted {
		for left == 0 {
			n++
			code <<= 1
			left = count[n]
		}
		at := int(bits.Reverse16(uint16(code)) >> (16 - n))
		if at&(1<<tableBits-1) != prefix {
			// A sub-table as wide as its longest code: widen until what follows fills it.
			prefix = at & (1<<tableBits - 1)
			width = n - tableBits
			for space := left; space < 1<<width; {
				width++
				space = space<<1 + count[tableBits+width]
			}
			start = end
			end += 1 << width
			table[prefix] = flagSpecial | flagSub | uint32(start)<<16 | uint32(width)<<8 | uint32(tableBits)
		}
		short := n - tableBits
		entry := entries[sym] + uint32(short)*0x101
		for j := start + at>>tableBits; j < end; j += 1 << short {
			table[j] = entry
		}
		code++
		left--
	}
}
