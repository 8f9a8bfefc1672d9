package sif

import (
	"fmt"
	"strconv"
)

// architectures is in the order of the codes, which start at 1.
func architectures() []string {
	return []string{
		"386", "amd64", "arm", "arm64", "ppc64", "ppc64le", "mips", "mipsle", "mips64", "mips64le", "s390x", "riscv64", "loong64",
	}
}

// archCode returns the code of a Go architecture name.
func archCode(arch string) ([3]byte, error) {
	for i, a := range architectures() {
		if a == arch {
			return [3]byte(fmt.Appendf(nil, "%02d\x00", i+1)), nil
		}
	}
	return [3]byte{}, fmt.Errorf("%w %q", ErrArch, arch)
}

// archName returns the Go name of a code; "" for code 00, which means none or unknown, and for codes nobody assigned.
func archName(code [3]byte) string {
	n, err := strconv.Atoi(string(code[:2]))
	if err != nil || n < 1 || n > len(architectures()) || code[2] != 0 {
		return ""
	}
	return architectures()[n-1]
}
