package squashfs_test

import (
	"testing"

	"hpcimg/squashfs"
)

func TestParseCompression(t *testing.T) {
	for c := squashfs.CompressionGzip; c <= squashfs.CompressionLZMA; c++ {
		if got, err := squashfs.ParseCompression(c.String()); got != c || err != nil {
			t.Errorf("%v: %v, %v", c, got, err)
		}
	}
	if c, err := squashfs.ParseCompression("ZSTD"); c != squashfs.CompressionZstd || err != nil {
		t.Errorf("ZSTD: %v, %v", c, err)
	}
	if _, err := squashfs.ParseCompression("brotli"); err == nil {
		t.Error("brotli is accepted")
	}
	if s := squashfs.Compression(99).String(); s != "Compression(99)" {
		t.Errorf("String of 99 is %q", s)
	}
}

// The golden values change when a compression library changes its output: what
// has been cached must then not be mixed with what is made from now on. Bump
// them together with the library.
func TestEncoderFingerprint(t *testing.T) {
	want := map[squashfs.Compression]string{
		squashfs.CompressionGzip: "49a5d6d8bedca7942a07aa144be55f25",
		squashfs.CompressionZstd: "2690a83f091d6140deeb96cb1618f075",
		squashfs.CompressionLZ4:  "20a8eff59ae31507f1b71d7c5d85368a",
	}
	for c, fp := range want {
		got, err := squashfs.EncoderFingerprint(c, 0)
		if err != nil || got != fp {
			t.Errorf("%v: %s, %v", c, got, err)
		}
	}
	a, _ := squashfs.EncoderFingerprint(squashfs.CompressionGzip, 6)
	b, _ := squashfs.EncoderFingerprint(squashfs.CompressionGzip, 9)
	if a != want[squashfs.CompressionGzip] || a == b {
		t.Error("levels: 0 is not 6, or 6 is 9")
	}
	if _, err := squashfs.EncoderFingerprint(squashfs.CompressionXZ, 0); err == nil {
		t.Error("xz has a fingerprint")
	}
}
