// Command quickstart tells the whole story of hpcimg in one program, without a
// network, root or a helper program: it starts a registry in its own process,
// makes a two-layer image from the machine it runs on, pushes it, then pulls,
// converts, signs, verifies, inspects and runs it, and says what each step did
// and what it cost.
//
//	go run ./examples/quickstart
//
// Where the host forbids user namespaces to ordinary users the last step shows
// the image's files through fs.FS instead, and says why. Everything it writes
// is in one temporary directory, removed at the end; -keep DIR leaves the
// result there.
package main
