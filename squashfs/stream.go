package squashfs

import (
	"io"
	"sync"
)

// writeTo writes the file from off on. Blocks are decoded by several
// goroutines, at most r.lookAhead ahead of the writer.
func (in *Inode) writeTo(w io.Writer, off int64) (int64, error) {
	if off >= int64(in.d.Size) {
		return 0, nil
	}
	s := &blockStream{in: in, w: w}
	bs := int64(in.r.sb.BlockSize)
	first := off / bs
	s.skip = int(off - first*bs)
	var err error
	if in.r.workers == 1 || in.blocks.count-first <= 1 {
		err = s.serial(first)
	} else {
		err = s.parallel(first)
	}
	if err == nil && in.d.Fragment != noFragment {
		err = s.tail()
	}
	return s.n, err
}

// blockStream writes the blocks of a file in order.
type blockStream struct {
	in   *Inode
	w    io.Writer
	n    int64
	skip int // bytes of the first block not to be written
}

func (s *blockStream) write(p []byte) error {
	if s.skip > 0 {
		k := min(s.skip, len(p))
		p, s.skip = p[k:], s.skip-k
	}
	if len(p) == 0 {
		return nil
	}
	k, err := s.w.Write(p)
	s.n += int64(k)
	if err == nil && k < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

func (s *blockStream) tail() error {
	data, err := s.in.tailData()
	if err != nil {
		return err
	}
	return s.write(data)
}

func (s *blockStream) serial(first int64) error {
	in := s.in
	buf := in.r.buffers.get(int(in.r.sb.BlockSize))
	defer in.r.buffers.put(buf)
	var words [16]blockWord
	for i := first; i < in.blocks.count; {
		n, err := in.blockWords(i, words[:])
		if err != nil {
			return err
		}
		for _, w := range words[:n] {
			dst := buf[:in.blockSizeAt(i)]
			if err := in.r.readBlock(dst, w); err != nil {
				return err
			}
			if err := s.write(dst); err != nil {
				return err
			}
			i++
		}
	}
	return nil
}

// decodedBlock is a promise of a block.
type decodedBlock struct {
	buf  []byte
	err  error
	done chan struct{}
}

// parallel starts one goroutine for each block, in order, and never has more
// than workers of them decoding or lookAhead blocks waiting to be written.
func (s *blockStream) parallel(first int64) error {
	in := s.in
	queue := make(chan *decodedBlock, in.r.workers*2)
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		defer close(queue)
		s.produce(first, queue, stop, &running)
	})
	var err error
	for b := range queue {
		<-b.done
		if err == nil {
			if err = b.err; err == nil {
				err = s.write(b.buf)
			}
			if err != nil {
				close(stop)
			}
		}
		in.r.buffers.put(b.buf)
	}
	running.Wait()
	return err
}

func (s *blockStream) produce(first int64, queue chan<- *decodedBlock, stop <-chan struct{}, running *sync.WaitGroup) {
	in := s.in
	slots := make(chan struct{}, in.r.workers)
	var words [16]blockWord
	for i := first; i < in.blocks.count; {
		n, err := in.blockWords(i, words[:])
		if err != nil {
			b := &decodedBlock{err: err, done: make(chan struct{})}
			close(b.done)
			queue <- b
			return
		}
		for _, w := range words[:n] {
			select {
			case slots <- struct{}{}:
			case <-stop:
				return
			}
			b := &decodedBlock{buf: in.r.buffers.get(in.blockSizeAt(i)), done: make(chan struct{})}
			running.Go(func() {
				b.err = in.r.readBlock(b.buf, w)
				close(b.done)
				<-slots
			})
			queue <- b
			i++
		}
	}
}
