package inflate

const (
	adlerMod = 65521
	// Chunks of 8 bytes after which a 16-bit lane of the running sums may be full: 255*(n-1)*n/2 < 1<<16.
	adlerChunks = 23
)

// adler32 returns the Adler-32 checksum of p.
//
// It adds eight bytes at a time in 16-bit lanes. With c chunks of eight bytes, x[i][j] being byte j of chunk i, the
// first sum grows by the sum of all bytes, the second by
//
//	8c*s1 + 8 * sum of (c-1-i)*x[i][j] + sum of (8-j)*x[i][j]
//
// where the first inner sum is, lane by lane, the sum of what the lanes held before each chunk.
func adler32(p []byte) uint32 {
	const lanes = 0x00ff00ff00ff00ff
	s1, s2 := uint64(1), uint64(0)
	for len(p) >= 8 {
		n := min(len(p)/8, adlerChunks) * 8
		var even, odd, evenBefore, oddBefore uint64
		for i := 0; i < n; i += 8 {
			x := load64(p, i)
			evenBefore += even
			oddBefore += odd
			even += x & lanes
			odd += x >> 8 & lanes
		}
		p = p[n:]
		s2 += uint64(n)*s1 + 8*(laneSum(evenBefore)+laneSum(oddBefore)) + weighted(even, 8) + weighted(odd, 7)
		s1 += laneSum(even) + laneSum(odd)
		s1 %= adlerMod
		s2 %= adlerMod
	}
	for _, x := range p {
		s1 += uint64(x)
		s2 += s1
	}
	return uint32(s2%adlerMod)<<16 | uint32(s1%adlerMod)
}

// laneSum adds the four 16-bit lanes of v.
func laneSum(v uint64) uint64 {
	v = v&0x0000ffff0000ffff + v>>16&0x0000ffff0000ffff
	return v&0xffffffff + v>>32
}

// weighted adds the four 16-bit lanes of v, lowest first, times first, first-2, first-4 and first-6.
func weighted(v, first uint64) uint64 {
	return v&0xffff*first + v>>16&0xffff*(first-2) + v>>32&0xffff*(first-4) + v>>48*(first-6)
}
