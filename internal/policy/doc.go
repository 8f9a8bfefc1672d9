// Package policy holds the rules of the module as tests, so that they hold without anybody remembering them.
//
// It has no code of its own. The files say what they are about:
//
//	arrows_test.go    which package imports which, and which modules, each with a reason
//	api_test.go       the exported API: a golden file, and no foreign types in it
//	source_test.go    doc.go, no init, no mutable globals, no process exits, skips only through internal/oracle
//	module_test.go    go.mod, licences of what is linked, systems that the leaf packages build on, examples, changelog
//	consumer_test.go  a program in another module that imports hpcimg, compiled and run
//
// # Exceptions
//
// A rule's exceptions stand in a table beside it, each with its reason, and an exception that is no longer needed fails the
// test like a broken rule. A new package fails until the table of arrows has a line for it.
//
// After a wanted change of the exported API:
//
//	go test ./internal/policy -run TestAPI -update
package policy
