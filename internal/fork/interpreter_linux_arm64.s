#include "go_asm.h"
#include "textflag.h"

#define EINTR 4
#define ENOENT 2
#define EACCES 13
#define ENOTDIR 20
#define EPIPE 32
#define O_CLOEXEC 0x80000
#define SYS_dup3 24
#define SYS_close 57
#define SYS_write 64
#define SYS_exit_group 94

// The loop that interpret is in child_linux.go, as a program of its own: it is copied into an ELF file and never runs here.
// So it has no stack, refers to nothing by address but the data of that file, and does not return.
//
//	R20  the record of what failed, R19 the call that is made, R21 the EACCES of an earlier execve
TEXT ·interpreter(SB), NOSPLIT|NOFRAME, $0-0
	MOVD $const_dataAddress, R20
	ADD  $const_headerSize, R20, R19
	MOVD $0, R21

call:
	MOVD rawCall_nr(R19), R8
	MOVD (rawCall_args+0)(R19), R0
	MOVD (rawCall_args+8)(R19), R1
	MOVD (rawCall_args+16)(R19), R2
	MOVD (rawCall_args+24)(R19), R3
	MOVD (rawCall_args+32)(R19), R4
	MOVD (rawCall_args+40)(R19), R5
	SVC
	CMN  $EINTR, R0
	BEQ  call
	MOVD rawCall_kind(R19), R9
	MOVD rawCall_n(R19), R10
	CMP  $const_kindLax, R9
	BEQ  next
	CMN  $4095, R0
	BCS  failed
	CMP  $const_kindFD, R9
	BEQ  descriptor
	CMP  $const_kindTry, R9
	BEQ  descriptor
	CMP  $const_kindSave, R9
	BEQ  save
	CMP  $const_kindWant, R9
	BNE  next
	CMP  R10, R0
	BEQ  next
	MOVD $-EPIPE, R0
	B    report

descriptor:
	CMP  R10, R0
	BEQ  next
	MOVD R0, R22
	MOVD R10, R1
	MOVD $O_CLOEXEC, R2
	MOVD $SYS_dup3, R8
	SVC
	CMN  $4095, R0
	BCS  report
	MOVD R22, R0
	MOVD $SYS_close, R8
	SVC
	B    next

save:
	MOVD R0, (R10)

next:
	ADD $rawCall__size, R19
	B   call

failed:
	CMP  $const_kindTry, R9
	BEQ  next
	CMP  $const_kindExec, R9
	BNE  report
	CMN  $EACCES, R0
	BNE  absent
	MOVD R0, R21
	B    another

absent:
	CMN $ENOENT, R0
	BEQ another
	CMN $ENOTDIR, R0
	BNE report

another:
	MOVD (rawCall__size+rawCall_kind)(R19), R9
	CMP  $const_kindExec, R9
	BEQ  next
	CBZ  R21, report
	MOVD R21, R0

report:
	NEG  R0, R0
	MOVW R0, 4(R20)
	MOVD rawCall_index(R19), R9
	MOVW R9, 0(R20)
	MOVD 8(R20), R0
	MOVD R20, R1
	MOVD $8, R2
	MOVD $SYS_write, R8
	SVC

exit:
	MOVD $const_exitSetUp, R0
	MOVD $SYS_exit_group, R8
	SVC
	B    exit
	WORD $const_programEndLow
	WORD $const_programEndHigh

// func interpreterPC() uintptr
TEXT ·interpreterPC(SB), NOSPLIT, $0-8
	MOVD $·interpreter(SB), R0
	MOVD R0, ret+0(FP)
	RET
