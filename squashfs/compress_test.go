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
		squashfs.CompressionGzip: "6f2787bf97b97c2099dcf40e082ac53b",
		squashfs.CompressionZstd: "288e57ab14bff1cd6bcb60932ba77b7f",
		squashfs.CompressionLZ4:  "3cd87c515cbf16d1b3928ffd54bd1e85",
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
