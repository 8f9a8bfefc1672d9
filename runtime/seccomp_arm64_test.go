package runtime_test

import "golang.org/x/sys/unix"

func readlinkNumber() uint32 { return unix.SYS_READLINKAT }
