package inflate

const (
	// One turn of the fast loop refills twice. A refill loads 8 bytes at ip and then moves ip by at most 7.
	fastInput = 7 + 8
	// One turn writes up to three literals and a match of at most 258 bytes, whose copy may run 32 bytes over.
	fastOutput = 3 + 258 + 32
)

// fast decodes symbols while neither the end of src nor that of dst is near; the rest is for careful. It reports
// whether it met the end of the block.
//
// It is the only place where indices into src and dst are not checked by the compiler (see mem_unsafe.go). They are in
// range because each turn begins with
//
//	ip + fastInput <= len(src)   and   op + fastOutput <= len(dst)
//
// and moves both by no more than the constants say; a match begins at op-dist, and dist <= op-base is checked.
func (d *Decoder) fast() (end bool, err error) {
	src, dst := d.src, d.dst
	ip, op := d.ip, d.op
	inEnd, outEnd := len(src)-fastInput, len(dst)-fastOutput
	if ip > inEnd || op > outEnd {
		return false, nil
	}
	base := d.base
	b, nb := d.bits, uint32(d.nb)
	// Only the low six bits of nb count. Above them b holds input too, the same that a refill puts there again.
	b |= load64(src, ip) << (nb & 63)
	e := d.lit[b&(1<<litBits-1)]
	for ip <= inEnd && op <= outEnd {
		// At least 56 bits from here; e is the entry of the first of them.
		b |= load64(src, ip) << (nb & 63)
		ip += int(^nb & 63 >> 3)
		nb |= 56
		if int32(e) < 0 {
			b >>= e & 63
			nb -= e
			store8(dst, op, byte(e>>16))
			op++
			e = d.lit[b&(1<<litBits-1)]
			if int32(e) < 0 {
				b >>= e & 63
				nb -= e
				store8(dst, op, byte(e>>16))
				op++
				e = d.lit[b&(1<<litBits-1)]
				if int32(e) < 0 {
					b >>= e & 63
					nb -= e
					store8(dst, op, byte(e>>16))
					op++
					e = d.lit[b&(1<<litBits-1)]
					continue
				}
			}
		}
		if e&flagSpecial != 0 {
			if e&flagSub != 0 {
				b >>= litBits
				nb -= litBits
				e = d.lit[(uint64(e>>16)+b&(1<<(e>>8&15)-1))&(litSize-1)]
				if int32(e) < 0 {
					b >>= e & 63
					nb -= e
					store8(dst, op, byte(e>>16))
					op++
					e = d.lit[b&(1<<litBits-1)]
					continue
				}
			}
			if e&flagSpecial != 0 {
				end = e&flagEnd != 0
				b >>= e & 63
				nb -= e
				if !end {
					err = errCode
				}
				break
			}
		}
		// 56-22 bits were left for the length; 14 remain.
		length := int(e>>16) + int((b&(1<<(e&63)-1))>>(e>>8&15))
		b >>= e & 63
		nb -= e
		f := d.dist[b&(1<<distBits-1)]
		b |= load64(src, ip) << (nb & 63)
		ip += int(^nb & 63 >> 3)
		nb |= 56
		if f&flagSpecial != 0 {
			if f&flagSub != 0 {
				b >>= distBits
				nb -= distBits
				f = d.dist[(uint64(f>>16)+b&(1<<(f>>8&15)-1))&(distSize-1)]
			}
			if f&flagSpecial != 0 {
				nb -= f
				err = errCode
				break
			}
		}
		dist := int(f>>16) + int((b&(1<<(f&63)-1))>>(f>>8&15))
		b >>= f & 63
		nb -= f
		if dist > op-base {
			err = errDistance
			break
		}
		// 28 bits remain: the next entry loads while the match is copied.
		e = d.lit[b&(1<<litBits-1)]

		s, stop := op-dist, op+length
		switch {
		case dist >= 16:
			copy16(dst, op, s)
			copy16(dst, op+16, s+16)
			for op += 32; op < stop; op += 32 {
				s += 32
				copy16(dst, op, s)
				copy16(dst, op+16, s+16)
			}
		case dist >= 8:
			for ; op < stop; op += 8 {
				store64(dst, op, load64(dst, s))
				s += 8
			}
		default:
			// The period as often as it fits into 8 bytes, then steps by a multiple of it.
			v := load64(dst, s) & (1<<(uint(dist)*8&63) - 1) * period[dist&7].times
			for ; op < stop; op += period[dist&7].step {
				store64(dst, op, v)
			}
		}
		op = stop
	}
	nb &= 63
	d.bits, d.nb = b&(1<<nb-1), uint(nb)
	d.ip, d.op = ip, op
	return end, err
}

// period says for each distance below 8 by what to multiply the bytes of one period to fill 8 bytes with them, and how
// many of those are whole periods.
var period = [8]struct {
	times uint64
	step  int
}{
	1: {0x0101010101010101, 8},
	2: {0x0001000100010001, 8},
	3: {0x0001000001000001, 6},
	4: {0x0000000100000001, 8},
	5: {0x0000010000000001, 5},
	6: {0x0001000000000001, 6},
	7: {0x0100000000000001, 7},
}
