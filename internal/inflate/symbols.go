package inflate

// symbols decodes to the end of the block if src and dst suffice.
func (d *Decoder) symbols() (status, error) {
	end, err := d.fast()
	if err != nil {
		return finished, d.corrupt(err)
	}
	if end {
		d.state = stateBlock
		return finished, nil
	}
	return d.careful()
}

// careful decodes symbols one at a time and checks every access. It does what fast leaves: the last bytes of src and of dst.
//
// A symbol is only consumed once it is wholly at hand and its output fits, so that careful can be called again.
func (d *Decoder) careful() (status, error) {
	for {
		if d.nb < 48 { // the longest symbol: 15+5 bits of length, 15+13 of distance
			d.fill()
		}
		e, skip := lookup(d.lit[:], litBits, d.bits)
		used := skip + uint(e&63)
		if used > d.nb {
			return needInput, nil
		}
		switch {
		case e&flagLiteral != 0:
			if d.op == len(d.dst) {
				return needOutput, nil
			}
			d.dst[d.op] = byte(e >> 16)
			d.op++
			d.drop(used)
			continue
		case e&flagEnd != 0:
			d.drop(used)
			d.state = stateBlock
			return finished, nil
		case e&flagSpecial != 0:
			d.drop(used)
			return finished, d.corrupt(errCode)
		}
		length := int(e>>16) + extra(d.bits>>skip, e)

		e, skip = lookup(d.dist[:], distBits, d.bits>>used)
		total := used + skip + uint(e&63)
		if total > d.nb {
			return needInput, nil
		}
		if e&flagSpecial != 0 {
			d.drop(total)
			return finished, d.corrupt(errCode)
		}
		dist := int(e>>16) + extra(d.bits>>(used+skip), e)
		if dist > d.op-d.base {
			d.drop(total)
			return finished, d.corrupt(errDistance)
		}
		if length > len(d.dst)-d.op {
			return needOutput, nil
		}
		d.drop(total)
		for range length {
			d.dst[d.op] = d.dst[d.op-dist]
			d.op++
		}
	}
}

// lookup finds the entry for the code in the low bits of b, and how many bits a primary entry has taken before it.
//
// Zeros may stand in for input that has not come: an entry that turns out longer than what is at hand means nothing, but
// an unassigned code is so for certain. Only the degenerate codes leave any unassigned; what they leave begins with a
// one or, in the empty code, with anything.
func lookup(table []uint32, primary uint, b uint64) (entry uint32, skip uint) {
	e := table[b&(1<<primary-1)]
	if e&flagSub != 0 {
		skip = primary
		e = table[uint64(e>>16)+(b>>skip)&(1<<(e>>8&15)-1)]
	}
	return e, skip
}

// extra returns the extra bits of a length or distance whose code begins at the lowest bit of b.
func extra(b uint64, e uint32) int {
	n := e >> 8 & 15
	return int(b & (1<<(e&63) - 1) >> n)
}
