package mpi_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	hpcrun "hpcimg/runtime"
	"hpcimg/runtime/mpi"
)

func fakeHost(t *testing.T, dirs ...string) *mpi.Host {
	root := t.TempDir()
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &mpi.Host{Root: root}
}

func TestLauncher(t *testing.T) {
	t.Parallel()
	host := fakeHost(t, "/dev/shm", "/var/spool/slurmd/pmix.7.0", "/run/munge", "/var/run/palsd/apid")
	for _, test := range []struct {
		name, env, note string
		binds, extra    []string
	}{
		{"nothing", "PATH=/bin HOME=/", "", nil, nil},
		{
			"Slurm with PMIx",
			"SLURM_STEP_ID=0 SLURM_PROCID=1 PMIX_RANK=1 PMIX_SERVER_TMPDIR=/var/spool/slurmd/pmix.7.0/ PMIX_SECURITY_MODE=munge,native PMIX_GDS_MODULE=ds21 PMIX_SYSTEM_TMPDIR=relative",
			"started by Slurm with PMIx",
			[]string{"/dev/shm", "/run/munge", "/var/spool/slurmd/pmix.7.0"},
			[]string{"PMIX_MCA_psec=munge,native", "PMIX_MCA_gds=ds21"},
		},
		{"Slurm with PMI2", "SLURM_STEP_ID=0 PMI_FD=11 PMI_RANK=0", "started by Slurm with PMI2", []string{"/dev/shm"}, nil},
		{"Slurm alone", "SLURM_STEP_ID=0 SLURM_PROCID=0", "started by Slurm without PMI", []string{"/dev/shm"}, nil},
		{"Hydra", "PMI_FD=6 PMI_RANK=0 HYDI_CONTROL_FD=5", "started by a PMI launcher", []string{"/dev/shm"}, nil},
		{"PALS", "PALS_RANKID=0 PALS_SPOOL_DIR=/var/run/palsd/apid", "started by PALS", []string{"/dev/shm", "/var/run/palsd/apid"}, nil},
		{"mpirun", "OMPI_COMM_WORLD_RANK=0 PMIX_RANK=0 PMIX_MCA_gds=hash PMIX_GDS_MODULE=ds21", "started by Open MPI's mpirun", []string{"/dev/shm"}, nil},
		{"gone", "PMIX_RANK=0 PMIX_SERVER_TMPDIR=/gone", "PMIX_SERVER_TMPDIR names /gone, which is no directory here", []string{"/dev/shm"}, nil},
	} {
		env := strings.Fields(test.env)
		inj := mpi.Launcher(env, host)
		var targets []string
		for _, b := range inj.Binds {
			targets = append(targets, b.Target)
			if b.Source != filepath.Join(host.Root, b.Target) {
				t.Errorf("%s: source of %+v", test.name, b)
			}
		}
		if diff := cmp.Diff(test.binds, targets); diff != "" {
			t.Errorf("%s: binds (-want +got)\n%s", test.name, diff)
		}
		want := slices.DeleteFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") || strings.HasPrefix(kv, "HOME=") })
		if diff := cmp.Diff(strings.Join(append(want, test.extra...), " "), strings.Join(inj.Env, " ")); diff != "" {
			t.Errorf("%s: variables (-want +got)\n%s", test.name, diff)
		}
		if test.note != "" && !slices.Contains(inj.Notes, test.note) || test.note == "" && inj.Notes != nil {
			t.Errorf("%s: notes %q", test.name, inj.Notes)
		}
	}
}

func TestFabric(t *testing.T) {
	t.Parallel()
	host := fakeHost(t, "/dev/infiniband", "/dev/cxi0", "/dev/cxi1", "/etc/libibverbs.d")
	want := []hpcrun.Bind{
		{Source: host.Root + "/dev/infiniband", Target: "/dev/infiniband"},
		{Source: host.Root + "/dev/cxi0", Target: "/dev/cxi0"},
		{Source: host.Root + "/dev/cxi1", Target: "/dev/cxi1"},
		{Source: host.Root + "/etc/libibverbs.d", Target: "/etc/libibverbs.d"},
	}
	if diff := cmp.Diff(want, mpi.Fabric(host).Binds); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func ExampleLauncher() {
	inj := mpi.Launcher([]string{"PMI_FD=11", "PMI_RANK=3", "SLURM_STEP_ID=0", "EDITOR=vi"}, nil)
	fmt.Println(inj.Notes, inj.Env)
	// Output: [started by Slurm with PMI2] [PMI_FD=11 PMI_RANK=3 SLURM_STEP_ID=0]
}

func ExampleFabric() {
	inj := mpi.Fabric(&mpi.Host{Root: "/proc/self/fdinfo"}) // a host without a network for MPI
	fmt.Println(len(inj.Binds))
	// Output: 0
}

func ExamplePrivateUserNS() {
	fmt.Println(mpi.PrivateUserNS()[0])
	// Output: OMPI_MCA_btl_vader_single_copy_mechanism=none
}
