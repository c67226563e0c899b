package native

import (
	"runtime"

	"golang.org/x/sys/cpu"
)

// Feature is an instruction set of amd64 processors, by the name that /proc/cpuinfo uses.
type Feature string

// The parts of x86-64-v3 that can be asked for; a processor with AVX2 and BMI2 has the rest of that level.
const (
	AVX2 Feature = "avx2"
	BMI1 Feature = "bmi1"
	BMI2 Feature = "bmi2"
	FMA  Feature = "fma"
)

// hasFeature reports whether this processor, and the operating system's saving of its registers, offer f.
// On another architecture the instruction sets are not the question, so that every answer is yes.
func hasFeature(f Feature) bool {
	if runtime.GOARCH != "amd64" {
		return true
	}
	switch f {
	case AVX2:
		return cpu.X86.HasAVX2
	case BMI1:
		return cpu.X86.HasBMI1
	case BMI2:
		return cpu.X86.HasBMI2
	case FMA:
		return cpu.X86.HasFMA
	}
	return false
}
