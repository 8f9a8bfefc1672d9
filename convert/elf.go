package convert

import (
	"debug/elf"
	"encoding/binary"
	"io"
)

const elfHeaderSize = 20 // as much of it as tells the architecture

// elfArch returns the Go name of the architecture for which a program is, or "".
func elfArch(head []byte) string {
	if string(head[:4]) != elf.ELFMAG {
		return ""
	}
	var order binary.ByteOrder = binary.LittleEndian
	little := true
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order, little = binary.BigEndian, false
	}
	wide := elf.Class(head[elf.EI_CLASS]) == elf.ELFCLASS64
	pick := func(ok bool, arch string) string {
		if ok {
			return arch
		}
		return ""
	}
	switch elf.Machine(order.Uint16(head[18:])) {
	case elf.EM_386:
		return "386"
	case elf.EM_X86_64:
		return pick(wide, "amd64")
	case elf.EM_ARM:
		return pick(little, "arm")
	case elf.EM_AARCH64:
		return pick(little, "arm64")
	case elf.EM_PPC64:
		return pick(wide, map[bool]string{true: "ppc64le", false: "ppc64"}[little])
	case elf.EM_MIPS:
		return "mips" + pick(wide, "64") + pick(little, "le")
	case elf.EM_S390:
		return pick(wide, "s390x")
	case elf.EM_RISCV:
		return pick(wide, "riscv64")
	case elf.EM_LOONGARCH:
		return pick(wide, "loong64")
	}
	return ""
}

// programArch returns the architecture of the image's shell or, without one, that of the first program in it; "" if there is
// none.
func (j *job) programArch() string {
	if i := j.tree.Lookup("bin/sh"); i != nil && i.Index >= 0 {
		if arch := j.layers[i.Layer].known.Elves[i.Index]; arch != "" {
			return arch
		}
	}
	found := ""
	_ = j.tree.Files(func(number, index int32) error {
		if found = j.layers[number].known.Elves[index]; found != "" {
			return io.EOF // enough
		}
		return nil
	})
	return found
}
