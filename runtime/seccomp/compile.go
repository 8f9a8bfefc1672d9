package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Filter is a compiled profile.
type Filter struct {
	// Program is what the kernel runs: instructions of classic BPF, of 8 bytes each, in the byte order of the machine.
	Program []byte
	// Ignored are system calls that the profile forbids and that no machine known here has, sorted: mistyped, perhaps, or newer than this
	// package.
	Ignored []string
}

// machine is what differs from one to another.
type machine struct {
	column int    // in numbers
	audit  uint32 // AUDIT_ARCH_
	other  uint32 // the first number of another set of calls; 0 if there is none
}

func machineOf(arch string) (machine, error) {
	switch arch {
	case "amd64":
		return machine{column: 0, audit: 0xc000003e, other: 0x40000000}, nil // x32
	case "arm64":
		return machine{column: 1, audit: 0xc00000b7}, nil
	}
	return machine{}, fmt.Errorf("seccomp: profiles for %s: %w", arch, errors.ErrUnsupported)
}

// rule is an action under conditions, which all have to hold.
type rule struct {
	tests  []test
	action action
}

// verdict is all that a profile says of a call.
type verdict struct {
	rules  []rule // with conditions, the first that holds
	always action
	set    bool // always is the profile's, and not the default
}

// Compile makes a filter of a profile in JSON. Nil options are the defaults.
func Compile(data []byte, o *Options) (*Filter, error) {
	v := o.withDefaults()
	m, err := machineOf(v.Arch)
	if err != nil {
		return nil, err
	}
	p, err := parse(data)
	if err != nil {
		return nil, err
	}
	otherwise, err := actionOf("defaultAction", p.DefaultAction, p.DefaultErrno, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	verdicts := make(map[int]*verdict)
	ignored := make(map[string]bool)
	kept := 0
	for i := range p.Syscalls {
		where := fmt.Sprintf("syscalls[%d]", i)
		names, rules, err := p.Syscalls[i].rules(where, &v)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			n, known := numbers[name]
			if !known && len(rules) > 0 && rules[0].action.stricter(otherwise) {
				ignored[name] = true
			}
			if known && n[m.column] >= 0 {
				if kept += len(rules); kept > maxKept {
					return nil, &LimitError{What: "rules", Limit: maxKept}
				}
				add(verdicts, int(n[m.column]), rules, otherwise)
			}
		}
	}
	a := &assembler{}
	a.prologue(m)
	a.tree(runs(verdicts, otherwise))
	if len(a.code) > maxInstructions {
		return nil, &LimitError{What: "instructions", Limit: maxInstructions}
	}
	f := &Filter{Program: a.bytes()}
	for name := range ignored {
		f.Ignored = append(f.Ignored, name)
	}
	slices.Sort(f.Ignored)
	return f, nil
}

const (
	// maxRules bounds what is kept for one call, which the kernel could not run anyway.
	maxRules = 4096
	// maxKept bounds what is kept for all. Calls with the same rules can share instructions, so that there may be more rules than those.
	maxKept = 1 << 17
)

func add(verdicts map[int]*verdict, nr int, rules []rule, otherwise action) {
	d := verdicts[nr]
	if d == nil {
		d = &verdict{always: otherwise}
		verdicts[nr] = d
	}
	for _, r := range rules {
		switch {
		case len(r.tests) > 0 && len(d.rules) < maxRules:
			d.rules = append(d.rules, r)
		case len(r.tests) == 0 && (!d.set || r.action.stricter(d.always)):
			d.always, d.set = r.action, true
		}
	}
}

// rules are the names that a group is about and its rules: one, unless an argument is tested several times.
func (g *group) rules(where string, o *Options) (names []string, rules []rule, err error) {
	act, err := actionOf(where+".action", g.Action, g.Errno, g.ErrnoRet)
	if err != nil {
		return nil, nil, err
	}
	if names = g.Names; g.Name != "" {
		names = append(slices.Clip(names), g.Name)
	}
	if len(names) == 0 || slices.Contains(names, "") {
		return nil, nil, &FormatError{Where: where + ".names", Err: errors.New("no name")}
	}
	if len(g.Args) > maxTests {
		return nil, nil, &LimitError{What: "conditions of a rule", Limit: maxTests}
	}
	var used [arguments]int
	several := false
	for i, t := range g.Args {
		at := fmt.Sprintf("%s.args[%d]", where, i)
		if t.Index >= arguments {
			return nil, nil, &FormatError{Where: at + ".index", Err: fmt.Errorf("%d: a system call has %d arguments", t.Index, arguments)}
		}
		if !slices.Contains(operators, t.Op) {
			return nil, nil, &FormatError{Where: at + ".op", Err: fmt.Errorf("unknown operator %q", t.Op)}
		}
		used[t.Index]++
		several = several || used[t.Index] > 1
	}
	applies, err := g.applies(o)
	if err != nil {
		return nil, nil, &FormatError{Where: where, Err: err}
	}
	switch {
	case !applies:
	case several: // as runc does it, which profiles are written for
		for _, t := range g.Args {
			rules = append(rules, rule{[]test{t}, act})
		}
	default:
		rules = []rule{{g.Args, act}}
	}
	return names, rules, nil
}

// run is a range of calls, up to the next one's, for which the same is said.
type run struct {
	first   int
	verdict *verdict
}

func runs(verdicts map[int]*verdict, otherwise action) []run {
	plain := &verdict{always: otherwise}
	list := []run{{0, plain}}
	last := 0
	for nr := range verdicts {
		last = max(last, nr)
	}
	for nr := range last + 2 { // one behind the last
		d := verdicts[nr]
		if d == nil {
			d = plain
		}
		if prev := list[len(list)-1].verdict; len(d.rules) > 0 || len(prev.rules) > 0 || prev.always != d.always {
			list = append(list, run{nr, d})
		}
	}
	return list
}

// instruction is one of classic BPF.
type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

const (
	loadWord     = 0x20 // of the call's description, at k
	andWord      = 0x54
	jump         = 0x05
	jumpEqual    = 0x15
	jumpGreater  = 0x25
	jumpAtLeast  = 0x35
	returnAction = 0x06

	numberAt    = 0 // in the call's description
	machineAt   = 4
	argumentsAt = 16

	maxInstructions = 4096
	farthest        = 255 // that a conditional jump reaches
)

type assembler struct{ code []instruction }

func (a *assembler) emit(code uint16, k uint32, jt, jf int) {
	a.code = append(a.code, instruction{code, uint8(jt), uint8(jf), k})
}

func (a *assembler) ret(v action) { a.emit(returnAction, uint32(v), 0, 0) }

func (a *assembler) bytes() []byte {
	b := make([]byte, 0, 8*len(a.code))
	for _, i := range a.code { // both machines are little-endian
		b = binary.LittleEndian.AppendUint16(b, i.code)
		b = binary.LittleEndian.AppendUint32(append(b, i.jt, i.jf), i.k)
	}
	return b
}

// prologue turns away calls by other machines' numbers, and loads the number.
func (a *assembler) prologue(m machine) {
	a.emit(loadWord, machineAt, 0, 0)
	a.emit(jumpEqual, m.audit, 1, 0)
	a.ret(enosys)
	a.emit(loadWord, numberAt, 0, 0)
	if m.other != 0 {
		a.emit(jumpAtLeast, m.other, 0, 1)
		a.ret(enosys)
	}
}

// tree finds the run of a number by bisection.
func (a *assembler) tree(list []run) {
	if len(list) == 1 {
		a.leaf(list[0].verdict)
		return
	}
	middle := len(list) / 2
	var low assembler
	low.tree(list[:middle])
	if n := len(low.code); n <= farthest {
		a.emit(jumpAtLeast, uint32(list[middle].first), n, 0)
	} else {
		a.emit(jumpAtLeast, uint32(list[middle].first), 0, 1)
		a.emit(jump, uint32(n), 0, 0)
	}
	a.code = append(a.code, low.code...)
	a.tree(list[middle:])
}

func (a *assembler) leaf(d *verdict) {
	for _, r := range d.rules {
		a.rule(r)
	}
	a.ret(d.always)
}

func (a *assembler) rule(r rule) {
	var blocks assembler
	blocks.ret(r.action)
	for i := len(r.tests) - 1; i >= 0; i-- {
		var b assembler
		b.test(r.tests[i], len(blocks.code))
		blocks.code = append(b.code, blocks.code...)
	}
	a.code = append(a.code, blocks.code...)
}

var operators = []string{"SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"}

// test goes on behind itself if the condition holds, else skips rest instructions more. Arguments have 64 bits, and the
// machine of the filter 32: the upper half is looked at first.
func (a *assembler) test(t test, rest int) {
	low := uint32(argumentsAt + 8*t.Index)
	high := low + 4
	upper, lower := uint32(t.Value>>32), uint32(t.Value)
	a.emit(loadWord, high, 0, 0)
	switch t.Op {
	case "SCMP_CMP_EQ":
		a.emit(jumpEqual, upper, 0, 2+rest)
		a.emit(loadWord, low, 0, 0)
		a.emit(jumpEqual, lower, 0, rest)
	case "SCMP_CMP_NE":
		a.emit(jumpEqual, upper, 0, 2)
		a.emit(loadWord, low, 0, 0)
		a.emit(jumpEqual, lower, rest, 0)
	case "SCMP_CMP_MASKED_EQ":
		a.emit(andWord, upper, 0, 0)
		a.emit(jumpEqual, uint32(t.ValueTwo>>32), 0, 3+rest)
		a.emit(loadWord, low, 0, 0)
		a.emit(andWord, lower, 0, 0)
		a.emit(jumpEqual, uint32(t.ValueTwo), 0, rest)
	case "SCMP_CMP_GT", "SCMP_CMP_GE":
		a.emit(jumpGreater, upper, 3, 0)
		a.emit(jumpEqual, upper, 0, 2+rest)
		a.emit(loadWord, low, 0, 0)
		a.emit(compare(t.Op == "SCMP_CMP_GT"), lower, 0, rest)
	default: // LE, LT: not GT, not GE
		a.emit(jumpGreater, upper, 3+rest, 0)
		a.emit(jumpEqual, upper, 0, 2)
		a.emit(loadWord, low, 0, 0)
		a.emit(compare(t.Op == "SCMP_CMP_LE"), lower, rest, 0)
	}
}

func compare(greater bool) uint16 {
	if greater {
		return jumpGreater
	}
	return jumpAtLeast
}
