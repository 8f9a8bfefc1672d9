package image_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// Frames of HTTP/2, RFC 9113 section 6.
const (
	frameData     = 0
	frameHeaders  = 1
	frameReset    = 3
	frameSettings = 4
	framePing     = 6
	frameGoAway   = 7

	flagAck        = 1
	flagEndStream  = 1
	flagEndHeaders = 4
)

// http2Conn is the server's end of a connection, by hand: net/http's server does not misbehave.
type http2Conn struct {
	net.Conn
}

func (c http2Conn) frame(kind, flags byte, stream uint32, payload []byte) {
	head := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	_, _ = c.Write(append(binary.BigEndian.AppendUint32(head, stream), payload...))
}

// next reads frames, answering what has to be, until a request comes, and returns its stream.
func (c http2Conn) next() (uint32, error) {
	for {
		var head [9]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return 0, err
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(c, payload); err != nil {
			return 0, err
		}
		switch {
		case head[3] == frameSettings && head[4]&flagAck == 0:
			c.frame(frameSettings, flagAck, 0, nil)
		case head[3] == framePing && head[4]&flagAck == 0:
			c.frame(framePing, flagAck, 0, payload)
		case head[3] == frameHeaders:
			return binary.BigEndian.Uint32(head[5:]), nil
		}
	}
}

// answer sends bytes of the blob: the whole or, from another byte than the first, what a Range would get.
func (c http2Conn) answer(stream uint32, from, to int) {
	header := []byte{0x88} // :status 200
	literal := func(name, value string) {
		header = append(header, 0, byte(len(name)))
		header = append(append(header, name...), byte(len(value)))
		header = append(header, value...)
	}
	if from > 0 {
		header = []byte{0x8a} // :status 206
		literal("content-range", fmt.Sprintf("bytes %d-%d/%d", from, faultySize-1, faultySize))
	}
	literal("content-length", fmt.Sprint(faultySize-from))
	c.frame(frameHeaders, flagEndHeaders, stream, header)
	for from < to {
		n := min(to-from, 16<<10)
		c.frame(frameData, 0, stream, faultyBlob()[from:from+n])
		from += n
	}
	if to == faultySize {
		c.frame(frameData, flagEndStream, stream, nil)
	}
}

// TestHTTP2Faults: connections that end, or stop to live, with streams on them.
func TestHTTP2Faults(t *testing.T) {
	for _, tc := range []struct {
		name  string
		first func(c http2Conn, stream uint32) // what the first connection does; the second one has the rest from half on
		half  bool
	}{
		{"GOAWAY before the answer", func(c http2Conn, _ uint32) {
			c.frame(frameGoAway, 0, 0, make([]byte, 8)) // last stream 0: none was processed
		}, false},
		{"GOAWAY in the middle", func(c http2Conn, stream uint32) {
			c.answer(stream, 0, half)
			c.frame(frameGoAway, 0, 0, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, stream), 0))
		}, true},
		{"GOAWAY with an error", func(c http2Conn, stream uint32) {
			c.answer(stream, 0, half)
			c.frame(frameGoAway, 0, 0, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, stream), 2))
		}, true},
		{"stream reset", func(c http2Conn, stream uint32) {
			c.answer(stream, 0, half)
			c.frame(frameReset, 0, stream, []byte{0, 0, 0, 2})
			time.Sleep(100 * time.Millisecond)
		}, true},
		{"cut", func(c http2Conn, stream uint32) { c.answer(stream, 0, half) }, true},
		{"dies without a word", func(c http2Conn, stream uint32) {
			c.answer(stream, 0, half)
			_, _ = io.Copy(io.Discard, c) // until the client gives up
		}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			certified := httptest.NewTLSServer(nil)
			t.Cleanup(certified.Close)
			l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certified.TLS.Certificates, NextProtos: []string{"h2"}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
			var conns atomic.Int32
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					n := conns.Add(1)
					go func() {
						defer conn.Close()
						_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
						c := http2Conn{conn}
						if _, err := io.ReadFull(c, make([]byte, 24)); err != nil { // preface
							return
						}
						c.frame(frameSettings, 0, 0, nil)
						stream, err := c.next()
						switch {
						case err != nil:
						case n == 1:
							tc.first(c, stream)
						case tc.half:
							c.answer(stream, half, faultySize)
						default:
							c.answer(stream, 0, faultySize)
						}
						// Not with unread frames, which would be a reset and lose bytes on their way.
						_ = conn.(*tls.Conn).CloseWrite()
						_, _ = io.Copy(io.Discard, conn)
					}()
				}
			}()
			f := newFaulty(t, func(_ *faulty, _ int, w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://"+l.Addr().String()+"/x", http.StatusTemporaryRedirect)
			})
			opts, transport := f.options()
			if tc.name == "dies without a word" {
				opts.Registry.IdleTimeout = 250 * time.Millisecond
			}
			pool := x509.NewCertPool()
			pool.AddCert(certified.Certificate())
			transport.TLSClientConfig = &tls.Config{RootCAs: pool}
			transport.ForceAttemptHTTP2 = true
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			if n, err := f.pull(ctx, opts); n != faultySize || err != nil || conns.Load() != 2 {
				t.Errorf("%d bytes over %d connections, %v", n, conns.Load(), err)
			}
			transport.CloseIdleConnections()
		})
	}
}
