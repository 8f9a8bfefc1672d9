package meter_test

import (
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hpcimg/internal/meter"
)

func TestNilReport(t *testing.T) {
	m := meter.Start(nil)
	task := m.Begin("stage", "name", 3)
	task.Add(3)
	task.End()
	m.Stop()
	if task.Done() != 3 {
		t.Errorf("Done() = %d, want 3", task.Done())
	}
}

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []meter.Reading
		m := meter.Start(func(r meter.Reading) { got = append(got, r) })
		task := m.Begin("layer", "a", 1000)
		for range 1000 {
			task.Add(1)
			time.Sleep(time.Millisecond)
		}
		task.End()
		m.Stop()
		if len(got) > 13 {
			t.Errorf("%d reports in one second", len(got))
		}
		first, last := got[0], got[len(got)-1]
		if first.Ended || first.Stage != "layer" || first.Name != "a" || first.Total != 1000 {
			t.Errorf("first report %+v", first)
		}
		if !last.Ended || last.Done != 1000 {
			t.Errorf("last report %+v", last)
		}
	})
}

func TestEveryEndIsReported(t *testing.T) {
	var got []meter.Reading
	m := meter.Start(func(r meter.Reading) { got = append(got, r) })
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			task := m.Begin("s", "n", 0)
			if _, err := io.Copy(io.Discard, task.Reader(strings.NewReader("hello"))); err != nil {
				t.Error(err)
			}
			task.End()
			task.End()
		})
	}
	wg.Wait()
	m.Stop()
	ends := 0
	for _, r := range got {
		if r.Ended {
			ends++
			if r.Done != 5 {
				t.Errorf("ended with %d units", r.Done)
			}
		}
	}
	if ends != 50 {
		t.Errorf("%d ends reported, want 50", ends)
	}
}
