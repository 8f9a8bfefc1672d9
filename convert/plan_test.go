package convert_test

import (
	"path/filepath"
	"testing"

	"hpcimg/convert"
	"hpcimg/image/cache"
	"hpcimg/internal/testtree"
)

func TestPlan(t *testing.T) {
	imgs := versions(t, 2)
	warm, err := cache.Open(filepath.Join(t.TempDir(), "cache"), nil)
	if err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "image.sif")
	opts := &convert.Options{Cache: warm}
	plan := func(n int) *convert.Forecast {
		t.Helper()
		f, err := convert.Plan(t.Context(), convert.FromImage(imgs[n]), dst, opts)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	var blobs int64
	for _, l := range imgs[0].Layers() {
		blobs += l.Descriptor.Size
	}
	cold := plan(0)
	if cold.Exact || cold.Download != blobs || cold.Copy != 0 || len(cold.Layers) != 3 || cold.Arch != imgs[0].Platform().Architecture {
		t.Errorf("cold: %+v", cold)
	}
	if len(cold.Space) == 0 || cold.Space[0].Need < cold.Size || cold.Space[0].Free <= 0 {
		t.Errorf("cold: space %+v", cold.Space)
	}
	if _, err := convert.Convert(t.Context(), convert.FromImage(imgs[0]), dst, opts); err != nil {
		t.Fatal(err)
	}
	warmed := plan(0)
	if !warmed.Exact || warmed.Download != 0 || warmed.Compress != 0 || warmed.Copy != warmed.Size || warmed.Size == 0 {
		t.Errorf("warm: %+v", warmed)
	}
	// The top layer is new, and with it what is hidden cannot be told.
	next := plan(1)
	if top := imgs[1].Layers()[2].Descriptor.Size; next.Exact || next.Layers[0].Index != convert.OriginCache || next.Download != top {
		t.Errorf("next: %+v", next)
	}
	opts = &convert.Options{Reuse: []string{dst}}
	if again := plan(0); !again.Exact || again.Copy != warmed.Copy {
		t.Errorf("reuse: %+v", again)
	}
}

// TestPlanForms wants the space of what is written twice, and of what is written uncompressed.
func TestPlanForms(t *testing.T) {
	img := build(t, tree{testtree.File("zeros", 0o644, make([]byte, 8<<20))})
	store, err := cache.Open(filepath.Join(t.TempDir(), "cache"), nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, form := range []convert.Form{convert.FormTar, convert.FormDir, convert.FormOCISIF, convert.FormOCIArchive} {
		opts := &convert.Options{Form: form, Cache: store}
		dst := filepath.Join(dir, string(form))
		if _, err := convert.Convert(t.Context(), convert.FromImage(img), dst, opts); err != nil {
			t.Fatal(err)
		}
		f, err := convert.Plan(t.Context(), convert.FromImage(img), dst, opts)
		if err != nil {
			t.Fatal(err)
		}
		plain := form == convert.FormTar || form == convert.FormDir
		if !f.Exact || plain != (f.Size == 8<<20) || f.Space[0].Need < f.Size {
			t.Errorf("%s: %+v", form, f)
		}
		if form == convert.FormOCIArchive && f.Space[0].Need != 2*f.Size {
			t.Errorf("%s: %+v", form, f)
		}
	}
}
