#include "go_asm.h"
#include "textflag.h"

#define EINTR 4
#define ENOENT 2
#define EACCES 13
#define ENOTDIR 20
#define EPIPE 32
#define O_CLOEXEC 0x80000
#define SYS_dup3 292
#define SYS_close 3
#define SYS_write 1
#define SYS_exit_group 231

// The loop that interpret is in child_linux.go, as a program of its own: it is copied into an ELF file and never runs here.
// So it has no stack, refers to nothing by address but the data of that file, and does not return.
//
//	R12  the record of what failed, BX the call that is made, R13 the EACCES of an earlier execve
TEXT ·interpreter(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ $const_dataAddress, R12
	LEAQ const_headerSize(R12), BX
	XORL R13, R13

call:
	MOVQ rawCall_nr(BX), AX
	MOVQ (rawCall_args+0)(BX), DI
	MOVQ (rawCall_args+8)(BX), SI
	MOVQ (rawCall_args+16)(BX), DX
	MOVQ (rawCall_args+24)(BX), R10
	MOVQ (rawCall_args+32)(BX), R8
	MOVQ (rawCall_args+40)(BX), R9
	SYSCALL
	CMPQ AX, $-EINTR
	JEQ  call
	MOVQ rawCall_kind(BX), CX
	CMPQ CX, $const_kindLax
	JEQ  next
	CMPQ AX, $-4095
	JCC  failed
	CMPQ CX, $const_kindFD
	JEQ  descriptor
	CMPQ CX, $const_kindTry
	JEQ  descriptor
	CMPQ CX, $const_kindSave
	JEQ  save
	CMPQ CX, $const_kindWant
	JNE  next
	CMPQ AX, rawCall_n(BX)
	JEQ  next
	MOVQ $-EPIPE, AX
	JMP  report

descriptor:
	CMPQ AX, rawCall_n(BX)
	JEQ  next
	MOVQ AX, R14
	MOVQ AX, DI
	MOVQ rawCall_n(BX), SI
	MOVL $O_CLOEXEC, DX
	MOVL $SYS_dup3, AX
	SYSCALL
	CMPQ AX, $-4095
	JCC  report
	MOVQ R14, DI
	MOVL $SYS_close, AX
	SYSCALL
	JMP  next

save:
	MOVQ rawCall_n(BX), DX
	MOVQ AX, (DX)

next:
	ADDQ $rawCall__size, BX
	JMP  call

failed:
	CMPQ CX, $const_kindTry
	JEQ  next
	CMPQ CX, $const_kindExec
	JNE  report
	CMPQ AX, $-EACCES
	JNE  absent
	MOVQ AX, R13
	JMP  another

absent:
	CMPQ AX, $-ENOENT
	JEQ  another
	CMPQ AX, $-ENOTDIR
	JNE  report

another:
	CMPQ (rawCall__size+rawCall_kind)(BX), $const_kindExec
	JEQ  next
	TESTQ R13, R13
	JEQ  report
	MOVQ R13, AX

report:
	NEGL AX
	MOVL AX, 4(R12)
	MOVQ rawCall_index(BX), CX
	MOVL CX, 0(R12)
	MOVQ 8(R12), DI
	MOVQ R12, SI
	MOVL $8, DX
	MOVL $SYS_write, AX
	SYSCALL

exit:
	MOVL $const_exitSetUp, DI
	MOVL $SYS_exit_group, AX
	SYSCALL
	JMP  exit
	QUAD $const_programEnd

// func interpreterPC() uintptr
TEXT ·interpreterPC(SB), NOSPLIT, $0-8
	LEAQ ·interpreter(SB), AX
	MOVQ AX, ret+0(FP)
	RET
