package policy

import "syscall"

func changeTime(s *syscall.Stat_t) ctime { return ctime{int64(s.Ctim.Sec), int64(s.Ctim.Nsec)} }
