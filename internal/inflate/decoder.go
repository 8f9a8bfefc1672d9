package inflate

import "encoding/binary"

// A Decoder inflates whole streams and keeps the tables (about 21 KiB) between calls, so that a caller with many blocks
// allocates once. The zero value is ready. It must not be used by two goroutines at a time.
type Decoder struct {
	lit  [litSize]uint32
	dist [distSize]uint32
	pre  [preSize]uint32
	lens [maxLitLen + maxDist]uint8

	// src[ip:] and the low nb bits of bits are input not decoded yet; bits above nb are zero. A caller may replace src
	// between calls of run as long as up to 8 bytes before ip stay, for run may give back bytes that bits holds.
	src  []byte
	ip   int
	bits uint64
	nb   uint

	// dst[base:op] is output of this stream, as far back as distances may reach.
	dst  []byte
	op   int
	base int

	state state
	final bool // the block at hand is the last
	fixed bool // lit and dist hold the codes of RFC 1951, 3.2.6
	left  int  // bytes of a stored block to come
	nlit  int  // symbols of the two codes of a dynamic block
	ndist int
	npre  int // lengths sent for the code of code lengths
	nlens int // lengths read so far
}

// A state names what comes next in the stream.
type state uint8

const (
	stateBlock    state = iota // header of a block
	stateStored                // length of a stored block
	stateCopy                  // bytes of a stored block
	stateDynamic               // counts of a dynamic block
	statePre                   // lengths of the code of code lengths
	stateLens                  // lengths of the two codes
	stateSymbols               // symbols up to the end of the block
	stateFinished              // nothing
)

// A status says why run came back.
type status uint8

const (
	finished   status = iota // the last block is over; ip stands on the byte after it
	needInput                // src is used up
	needOutput               // dst has no room for the next symbol
)

// reset makes d ready for a stream that begins at src[ip] and goes to dst[op].
func (d *Decoder) reset() {
	d.bits, d.nb = 0, 0
	d.base = d.op
	d.state = stateBlock
	d.final = false
}

// run inflates until the stream ends, is found corrupt, or src or dst does not suffice. It may be called again with
// more of either.
func (d *Decoder) run() (status, error) {
	for {
		var err error
		st := finished // unless a step says otherwise, go on
		switch d.state {
		case stateBlock:
			st, err = d.blockHeader()
		case stateStored:
			st, err = d.storedHeader()
		case stateCopy:
			st = d.stored()
		case stateDynamic:
			st, err = d.dynamicHeader()
		case statePre:
			st, err = d.preLengths()
		case stateLens:
			st, err = d.lengths()
		case stateSymbols:
			st, err = d.symbols()
		case stateFinished:
			d.align()
			return finished, nil
		}
		if st != finished || err != nil {
			return st, err
		}
	}
}

// fill tops bits up to at least 56, or to all there is.
func (d *Decoder) fill() {
	if len(d.src)-d.ip >= 8 {
		d.bits |= binary.LittleEndian.Uint64(d.src[d.ip:]) << d.nb
		d.ip += int(63-d.nb) >> 3
		d.nb |= 56
		d.bits &= 1<<d.nb - 1
		return
	}
	for d.nb <= 55 && d.ip < len(d.src) {
		d.bits |= uint64(d.src[d.ip]) << d.nb
		d.ip++
		d.nb += 8
	}
}

// need reports whether n bits (at most 56) are at hand.
func (d *Decoder) need(n uint) bool {
	if d.nb < n {
		d.fill()
	}
	return d.nb >= n
}

func (d *Decoder) drop(n uint) {
	d.bits >>= n
	d.nb -= n
}

func (d *Decoder) take(n uint) int {
	v := int(d.bits & (1<<n - 1))
	d.drop(n)
	return v
}

// align drops the rest of a byte and gives whole bytes back to src.
func (d *Decoder) align() {
	d.ip -= int(d.nb >> 3)
	d.bits, d.nb = 0, 0
}

// offset returns how many bytes of src precede the next bit.
func (d *Decoder) offset() int { return d.ip - int(d.nb>>3) }

// corrupt returns an error whose offset is relative to src; the caller adds where src begins.
func (d *Decoder) corrupt(reason error) error {
	return &CorruptError{Offset: int64(d.offset()), Err: reason}
}

func (d *Decoder) blockHeader() (status, error) {
	if d.final {
		d.state = stateFinished
		return finished, nil
	}
	if !d.need(3) {
		return needInput, nil
	}
	kind := d.bits >> 1 & 3
	if kind == 3 {
		return finished, d.corrupt(errBlockType)
	}
	d.final = d.bits&1 != 0
	d.drop(3)
	switch kind {
	case 0:
		d.align()
		d.state = stateStored
	case 1:
		d.fixedCodes()
		d.state = stateSymbols
	case 2:
		d.state = stateDynamic
	}
	return finished, nil
}

func (d *Decoder) storedHeader() (status, error) {
	if !d.need(32) {
		return needInput, nil
	}
	n, complement := uint16(d.bits), uint16(d.bits>>16)
	if n != ^complement {
		return finished, d.corrupt(errStored)
	}
	d.drop(32)
	d.align()
	d.left = int(n)
	d.state = stateCopy
	return finished, nil
}

func (d *Decoder) stored() status {
	n := copy(d.dst[d.op:], d.src[d.ip:min(len(d.src), d.ip+d.left)])
	d.op += n
	d.ip += n
	d.left -= n
	switch {
	case d.left == 0:
		d.state = stateBlock
		return finished
	case d.ip == len(d.src):
		return needInput
	default:
		return needOutput
	}
}

func (d *Decoder) dynamicHeader() (status, error) {
	if !d.need(14) {
		return needInput, nil
	}
	d.nlit = int(d.bits&31) + 257
	d.ndist = int(d.bits>>5&31) + 1
	d.npre = int(d.bits>>10&15) + 4
	if d.nlit > maxLitLen || d.ndist > maxDist {
		return finished, d.corrupt(errCodeCounts)
	}
	d.drop(14)
	d.nlens = 0
	clear(d.lens[:numPre])
	d.state = statePre
	return finished, nil
}

func (d *Decoder) preLengths() (status, error) {
	const order = "\x10\x11\x12\x00\x08\x07\x09\x06\x0a\x05\x0b\x04\x0c\x03\x0d\x02\x0e\x01\x0f"
	for d.nlens < d.npre {
		if !d.need(3) {
			return needInput, nil
		}
		d.lens[order[d.nlens]] = uint8(d.take(3))
		d.nlens++
	}
	if !build(d.pre[:], preBits, preEntries[:], d.lens[:numPre]) {
		return finished, d.corrupt(errCodeLengths)
	}
	d.nlens = 0
	d.state = stateLens
	return finished, nil
}

// lengths reads the code lengths of a dynamic block and builds its tables.
func (d *Decoder) lengths() (status, error) {
	total := d.nlit + d.ndist
	for d.nlens < total {
		d.need(14) // the longest symbol; fewer bits may do near the end of the input
		e := d.pre[d.bits&(preSize-1)]
		n := uint(e & 63)
		if n > d.nb {
			return needInput, nil
		}
		if e&flagSpecial != 0 {
			return finished, d.corrupt(errCode)
		}
		sym := e >> 16
		if sym < 16 {
			d.drop(n)
			d.lens[d.nlens] = uint8(sym)
			d.nlens++
			continue
		}
		extra, repeat := uint(2), 3
		switch sym {
		case 17:
			extra = 3
		case 18:
			extra, repeat = 7, 11
		}
		if d.nb < n+extra {
			return needInput, nil
		}
		repeat += int(d.bits >> n & (1<<extra - 1))
		var value uint8
		if sym == 16 {
			if d.nlens == 0 {
				return finished, d.corrupt(errRepeat)
			}
			value = d.lens[d.nlens-1]
		}
		if d.nlens+repeat > total {
			return finished, d.corrupt(errRepeat)
		}
		d.drop(n + extra)
		for i := range repeat {
			d.lens[d.nlens+i] = value
		}
		d.nlens += repeat
	}
	d.fixed = false
	if !build(d.lit[:], litBits, litEntries[:], d.lens[:d.nlit]) ||
		!build(d.dist[:], distBits, distEntries[:], d.lens[d.nlit:total]) {
		return finished, d.corrupt(errCodeLengths)
	}
	d.state = stateSymbols
	return finished, nil
}

func (d *Decoder) fixedCodes() {
	if d.fixed {
		return
	}
	var lens [288]uint8
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	build(d.lit[:], litBits, litEntries[:], lens[:])
	for i := range 32 {
		lens[i] = 5
	}
	build(d.dist[:], distBits, distEntries[:], lens[:32])
	d.fixed = true
}
