// Package meter counts the work of a long task and reports it in small doses.
//
// Leaf code pulls nothing and formats nothing: it adds to a [Task], which is an
// atomic addition. One goroutine reads the counters ten times a second and
// calls the function that the caller gave to [Start]:
//
//	m := meter.Start(func(r meter.Reading) { … })
//	defer m.Stop()
//	t := m.Begin("layer", "sha256:0123", size)
//	io.Copy(dst, t.Reader(src))
//	t.End()
//
// # Concurrency
//
// All methods may be called from any goroutine. The function is called from one
// goroutine only, at most ten times a second for each task, and in addition when
// a task begins and when it ends. The last call for a task is always made, at the
// latest by Stop, which returns when the goroutine has ended. A slow function
// delays reports; it never delays the work.
package meter
