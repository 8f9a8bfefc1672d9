// Package golden compares text that a test made with the file in testdata that holds what it should be.
//
//	golden.Check(t, "plan/nvidia.txt", plan.String())
//
// After a wanted change, write the files anew and review the difference before committing it:
//
//	go test ./runtime -run TestPlan -update
//
// A file that is missing fails the test: nothing is accepted that nobody has looked at. Importing the package gives a test
// binary the flag -update; only test files import it.
package golden
