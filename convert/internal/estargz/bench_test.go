package estargz_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	foreign "github.com/containerd/stargz-snapshotter/estargz"

	"hpcimg/convert/internal/estargz"
	"hpcimg/internal/testtree"
)

// hostTar makes a layer of what this machine has in some directories, about max bytes from each, or of text that looks like it.
func hostTar(tb testing.TB, perDir int64, dirs ...string) []byte {
	tb.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, dir := range dirs {
		var sum int64
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || sum >= perDir || !d.Type().IsRegular() && !d.IsDir() {
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			h, err := tar.FileInfoHeader(info, "")
			if err != nil {
				return err
			}
			h.Name = p[1:]
			var data []byte
			if !d.IsDir() {
				if data, err = os.ReadFile(p); err != nil {
					return nil // not for us
				}
				h.Size = int64(len(data))
			}
			if err := tw.WriteHeader(h); err != nil {
				return err
			}
			sum += h.Size
			_, err = tw.Write(data)
			return err
		})
		if err != nil {
			tb.Fatal(err)
		}
		for i := 0; sum < perDir/2; i++ {
			data := testtree.Text(uint64(i), 40_000)
			if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("%s/text%d", dir[1:], i), Mode: 0o644, Size: int64(len(data))}); err != nil {
				tb.Fatal(err)
			}
			if _, err := tw.Write(data); err != nil {
				tb.Fatal(err)
			}
			sum += int64(len(data))
		}
	}
	if err := tw.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

type cost struct {
	wall, cpu time.Duration
	size      int64
}

func measure(tb testing.TB, f func() (int64, error)) cost {
	tb.Helper()
	before, start := cpuTime(tb), time.Now()
	size, err := f()
	if err != nil {
		tb.Fatal(err)
	}
	return cost{wall: time.Since(start), cpu: cpuTime(tb) - before, size: size}
}

func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func build(archive []byte, opts ...foreign.Option) func() (int64, error) {
	return func() (int64, error) {
		blob, err := foreign.Build(io.NewSectionReader(bytes.NewReader(archive), 0, int64(len(archive))), opts...)
		if err != nil {
			return 0, err
		}
		n, err := io.Copy(io.Discard, blob)
		return n, errorOr(err, blob.Close())
	}
}

func errorOr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// BenchmarkAgainstBuild runs the format's own Go package, at its defaults, and ours in turn, and reports how many times more it
// takes of wall clock and CPU, and how many times our size is its.
func BenchmarkAgainstBuild(b *testing.B) {
	archive := hostTar(b, 50<<20, "/usr/lib/python3", "/usr/bin")
	b.SetBytes(int64(len(archive)))
	var wall, cpu, size []float64
	for b.Loop() {
		theirs := measure(b, build(archive))
		ours := measure(b, func() (int64, error) {
			res, err := estargz.Write(b.Context(), io.Discard, bytes.NewReader(archive), nil)
			if err != nil {
				return 0, err
			}
			return res.Size, nil
		})
		wall = append(wall, theirs.wall.Seconds()/ours.wall.Seconds())
		cpu = append(cpu, theirs.cpu.Seconds()/ours.cpu.Seconds())
		size = append(size, float64(ours.size)/float64(theirs.size))
		b.Logf("theirs %v wall, %v CPU, %d bytes; ours %v, %v, %d", theirs.wall, theirs.cpu, theirs.size, ours.wall, ours.cpu, ours.size)
	}
	b.ReportMetric(median(wall), "wall-ratio")
	b.ReportMetric(median(cpu), "cpu-ratio")
	b.ReportMetric(median(size), "size-ratio")
}

// BenchmarkWrite is ours alone.
func BenchmarkWrite(b *testing.B) {
	archive := hostTar(b, 50<<20, "/usr/lib/python3", "/usr/bin")
	for _, workers := range []int{1, 2} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			b.SetBytes(int64(len(archive)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := estargz.Write(b.Context(), io.Discard, bytes.NewReader(archive), &estargz.Options{Workers: workers}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
