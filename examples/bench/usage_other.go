//go:build !unix

package main

import (
	"os"
	"time"
)

func peakRSS(*os.ProcessState) int64 { return 0 }

func written(*os.ProcessState) int64 { return 0 }

func selfCPU() time.Duration { return 0 }
