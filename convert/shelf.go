package convert

import (
	"fmt"
	"hash/crc32"
	"io"

	"hpcimg/convert/internal/index"
)

// shelf keeps what is only needed again at the end: in memory or, of a large image, in a temporary file.
type shelf struct {
	file *tempFile // nil for memory
	end  int64
}

var errShelf = fmt.Errorf("%w: an index is not what has been written", index.ErrFormat)

// shelved is something on the shelf.
type shelved struct {
	data []byte // if it is in memory
	at   int64
	size int
	sum  uint32
}

func (s *shelf) put(data []byte) (shelved, error) {
	if s.file == nil {
		return shelved{data: data}, nil
	}
	x := shelved{at: s.end, size: len(data), sum: crc32.Checksum(data, castagnoli())}
	if _, err := s.file.WriteAt(data, x.at); err != nil {
		return x, err
	}
	s.end += int64(x.size)
	return x, nil
}

func (s *shelf) get(x shelved) ([]byte, error) {
	if x.data != nil {
		return x.data, nil
	}
	data := make([]byte, x.size)
	_, err := io.ReadFull(io.NewSectionReader(s.file, x.at, int64(x.size)), data)
	if err == nil && crc32.Checksum(data, castagnoli()) != x.sum {
		err = errShelf
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.file.Name(), err)
	}
	return data, nil
}

// Close empties the shelf.
func (s *shelf) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}
