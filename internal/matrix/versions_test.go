package matrix

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestVersions builds the program against every release of wazero from the one that
// go.mod requires to the newest, and runs it over one directory: cold, warm, with every
// entry damaged, healed, and with RequireHit. It prints a table of what works.
//
// It asks the module proxy which releases there are, so it runs only if
// MODCACHE_MATRIX is set. Without an answer it takes those in the module cache.
func TestVersions(t *testing.T) {
	if os.Getenv("MODCACHE_MATRIX") == "" {
		t.Skip("set MODCACHE_MATRIX to build against every version of wazero")
	}
	table := "| wazero | drop-in | Runtime | stubs |\n|---|---|---|---|\n"
	for _, v := range versions(t) {
		row := fmt.Sprintf("| %s | see the failure | | |\n", v)
		t.Run(v, func(t *testing.T) { row = testVersion(t, v) })
		table += row
	}
	fmt.Print(table)
}

func testVersion(t *testing.T, version string) (row string) {
	p := build(t, "require "+wazeroModule+" "+version, true)
	modules := uint64(len(p.modules))
	cold := p.run(t)
	p.requireRight(t, cold)
	require.Equal(t, version, cold.Wazero)
	require.Contains(t, cold.Engine, wazeroModule+"@"+version+" h1:")
	require.Empty(t, cold.Attach)
	require.EqualValues(t, 2*modules, cold.DropIn.Metrics.Lookups, "of two runtimes that share nothing in memory")
	require.EqualValues(t, modules, cold.Runtime.Metrics.Compiles, "the second runtime finds the code")
	for name, w := range cold.ways() {
		require.Empty(t, w.Degraded, name)
	}

	requireWarm := func(r report) {
		t.Helper()
		p.requireRight(t, r)
		for name, w := range r.ways() {
			require.Zero(t, w.Metrics.Misses+w.Metrics.Compiles+w.Metrics.Corrupt+w.Metrics.StoreErrors, name)
			require.Empty(t, w.Degraded, name)
		}
		require.EqualValues(t, 2*modules, r.DropIn.Metrics.Hits)
		require.EqualValues(t, modules, r.Runtime.Metrics.Hits)
		require.EqualValues(t, modules, r.Runtime.Metrics.Stubbed)
	}
	requireWarm(p.run(t))
	requireWarm(p.run(t, "-require-hit"))

	require.GreaterOrEqual(t, p.damage(t), 2*len(p.modules))
	damaged := p.run(t)
	p.requireRight(t, damaged)
	for name, w := range damaged.ways() {
		require.NotZero(t, w.Metrics.Store.Corrupt, name)
	}
	requireWarm(p.run(t))

	p.dir += "-empty"
	empty := p.run(t, "-require-hit")
	for name, w := range empty.ways() {
		require.Empty(t, w.Results, name)
		require.Equal(t, len(p.results), w.Missed, name)
		require.Zero(t, w.Metrics.Compiles, name)
	}
	return fmt.Sprintf("| %s | yes | yes | yes |\n", version)
}

// versions are the releases to test, in order.
func versions(t *testing.T) []string {
	oldest := goList(t, "-f", "{{.Version}}", wazeroModule)[0]
	out, err := exec.Command("go", "list", "-m", "-versions", wazeroModule).Output()
	all := strings.Fields(string(out))
	if err != nil {
		fmt.Printf("NOT TESTED against all releases, only those in the module cache: the proxy can't be asked: %v\n", err)
		cached, err := os.ReadDir(goEnv(t, "GOMODCACHE") + "/github.com/tetratelabs")
		require.NoError(t, err)
		for _, d := range cached {
			all = append(all, strings.TrimPrefix(d.Name(), "wazero@"))
		}
	}
	release := regexp.MustCompile(`^v\d+\.\d+\.\d+$`)
	all = slices.DeleteFunc(all, func(v string) bool { return !release.MatchString(v) || compareVersions(v, oldest) < 0 })
	slices.SortFunc(all, compareVersions)
	require.Contains(t, all, oldest)
	require.Greater(t, len(all), 1)
	return all
}

func compareVersions(a, b string) int {
	return slices.CompareFunc(strings.Split(a[1:], "."), strings.Split(b[1:], "."), func(x, y string) int {
		m, _ := strconv.Atoi(x)
		n, _ := strconv.Atoi(y)
		return cmp.Compare(m, n)
	})
}

func goList(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-m"}, args...)...).Output()
	require.NoError(t, err)
	return strings.Fields(string(out))
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}
