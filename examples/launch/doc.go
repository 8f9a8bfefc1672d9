// Command launch runs a command in an image, and is all that takes: the
// smallest program around package runtime.
//
//	go run ./examples/launch [-backend NAME] [-session TAG] [-trust] IMAGE COMMAND [ARG...]
//
// The image is a SIF file, a squashfs image or a directory. A program of this
// size starts in half the time of the whole command line, which is what a job of
// many short processes wants; bench start measures both.
package main
