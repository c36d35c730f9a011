package modcache_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache"
)

// Users and groups that needn't exist. Everybody but root is in their own group, and in team.
const (
	me, team           = 41_000, 41_001
	other, otherGroup  = 42_000, 42_001
	mappedMe           = 65_534 // whose number also stands for everybody who isn't mapped
	accessCasesInChild = "MODCACHE_TEST_ACCESS"
)

// accessUser runs cases, in a process of its own.
type accessUser struct {
	uid  int
	gid  int
	maps []syscall.SysProcIDMap // of a user namespace
	gids []syscall.SysProcIDMap // nil: maps, and the user is in team as well
}

var accessUsers = map[string]accessUser{
	"root": {},
	"user": {uid: me, gid: me},
	// As in containers: root and a range of users are mapped.
	"mapped": {uid: me, gid: me, maps: []syscall.SysProcIDMap{{Size: team + 1}}},
	"nobody": {uid: mappedMe, gid: team, maps: []syscall.SysProcIDMap{{Size: me}, {ContainerID: team, HostID: team, Size: 1}, {ContainerID: mappedMe, HostID: mappedMe, Size: 1}}},
	// In a group of this process, which isn't mapped, and so has the number of all that aren't.
	"grouped": {uid: me, gid: team, maps: []syscall.SysProcIDMap{{Size: team + 1}}, gids: []syscall.SysProcIDMap{{ContainerID: me, HostID: me, Size: 2}}},
	// As in sandboxes: nobody but the user is mapped, not even the owner of "/".
	"sandboxed": {uid: me, gid: me, maps: []syscall.SysProcIDMap{{ContainerID: me, HostID: me, Size: 2}}},
}

// accessSituation is a way to have or not to have a directory.
type accessSituation struct {
	row   string            // of the table in docs/trust.md that is about it
	rows  map[string]string // other rows for some users; "": not for this user
	fails bool              // to be opened for writing, by all but root
	make  func(s *scene)
}

// scene makes a directory for one case. Its files belong to nobody else until own says so.
type scene struct {
	t    *testing.T
	base string // root's, 0755
	uid  int
}

func (s *scene) dir() string { return filepath.Join(s.base, "above", "cache") }

func (s *scene) mkdir(path string, mode fs.FileMode, uid, gid int) {
	require.NoError(s.t, os.Mkdir(path, 0o700))
	require.NoError(s.t, os.Lchown(path, uid, gid))
	require.NoError(s.t, os.Chmod(path, mode))
}

func (s *scene) above(mode fs.FileMode, uid, gid int) { s.mkdir(filepath.Dir(s.dir()), mode, uid, gid) }

// in makes a directory in a safe place.
func (s *scene) in(mode fs.FileMode, uid, gid int) {
	s.above(0o755, s.uid, 0)
	s.mkdir(s.dir(), mode, uid, gid)
}

func (s *scene) link(target string, uid int) {
	require.NoError(s.t, os.Symlink(target, s.dir()))
	require.NoError(s.t, os.Lchown(s.dir(), uid, uid))
}

const (
	setgid = fs.ModeSetgid
	sticky = fs.ModeSticky

	missing      = "is missing, and others can't replace what is made there"
	exposed      = "is missing, and others could replace what is made there"
	inTheirGroup = "is missing, and would belong to a group that you aren't in"
	somebodys    = "is missing, in a directory of somebody else that only root's power lets you write to"
	mine         = "is yours, and others can't write to it"
	minePrivate  = "is yours, others could replace it, and it is private (mode 0700)"
	mineExposed  = "is yours, others could replace it, and they can read it or write to it"
	roots        = "is root's, and others can't write to it"
	theirs       = "is somebody else's, or of a user whom the user namespace or an id-mapped mount doesn't map"
	myGroups     = "can be written by a group that you are in"
	othersGroups = "can be written by a group that you aren't in"
	everybodys   = "can be written by everybody"
	linked       = "is behind a symbolic link of yours or root's"
	badlyLinked  = "is behind a symbolic link of somebody else, or one that leads nowhere"
)

var (
	// Where "/" is of an unknown user, everything could be replaced.
	inSandbox = func(row string) map[string]string { return map[string]string{"sandboxed": row} }
	onlyRoot  = map[string]string{"user": "", "mapped": "", "nobody": "", "grouped": "", "sandboxed": ""}
)

var accessSituations = map[string]accessSituation{
	"missing":                 {row: missing, rows: inSandbox(exposed), make: func(s *scene) { s.above(0o755, s.uid, 0) }},
	"missing in a group's":    {row: exposed, make: func(s *scene) { s.above(0o770, s.uid, otherGroup) }},
	"missing in an emptyDir":  {row: exposed, make: func(s *scene) { s.above(0o777, 0, 0) }},
	"missing in /tmp":         {row: missing, rows: inSandbox(exposed), make: func(s *scene) { s.above(0o777|sticky, 0, 0) }},
	"missing, setgid above":   {row: inTheirGroup, rows: inSandbox(exposed), make: func(s *scene) { s.above(0o755|setgid, s.uid, otherGroup) }},
	"missing in a home":       {row: somebodys, rows: onlyRoot, make: func(s *scene) { s.above(0o755, other, other) }},
	"private":                 {row: mine, rows: inSandbox(minePrivate), make: func(s *scene) { s.in(0o700, s.uid, 0) }},
	"own":                     {row: mine, rows: inSandbox(mineExposed), make: func(s *scene) { s.in(0o755, s.uid, 0) }},
	"own in /tmp":             {row: mine, rows: inSandbox(mineExposed), make: func(s *scene) { s.above(0o777|sticky, 0, 0); s.mkdir(s.dir(), 0o755, s.uid, 0) }},
	"private in an emptyDir":  {row: minePrivate, make: func(s *scene) { s.above(0o777, 0, 0); s.mkdir(s.dir(), 0o700, s.uid, 0) }},
	"private, fsGroup":        {row: minePrivate, make: func(s *scene) { s.above(0o777|setgid, 0, team); s.mkdir(s.dir(), 0o700|setgid, s.uid, team) }},
	"private in a home":       {row: minePrivate, make: func(s *scene) { s.above(0o755, other, other); s.mkdir(s.dir(), 0o700, s.uid, 0) }},
	"private in a group's":    {row: minePrivate, make: func(s *scene) { s.above(0o775, s.uid, otherGroup); s.mkdir(s.dir(), 0o700, s.uid, 0) }},
	"own in an emptyDir":      {row: mineExposed, make: func(s *scene) { s.above(0o777, 0, 0); s.mkdir(s.dir(), 0o755, s.uid, 0) }},
	"group's in an emptyDir":  {row: mineExposed, make: func(s *scene) { s.above(0o777, 0, 0); s.mkdir(s.dir(), 0o770|setgid, s.uid, team) }},
	"own in a home":           {row: mineExposed, make: func(s *scene) { s.above(0o755, other, other); s.mkdir(s.dir(), 0o755, s.uid, 0) }},
	"own in a group's":        {row: mineExposed, make: func(s *scene) { s.above(0o775, s.uid, otherGroup); s.mkdir(s.dir(), 0o755, s.uid, 0) }},
	"read-only":               {row: roots, rows: map[string]string{"root": "", "sandboxed": theirs}, fails: true, make: func(s *scene) { s.in(0o755, 0, 0) }},
	"foreign":                 {row: theirs, fails: true, make: func(s *scene) { s.in(0o755, other, other) }},
	"group's":                 {row: myGroups, rows: inSandbox(mineExposed), make: func(s *scene) { s.in(0o770|setgid, s.uid, team) }},
	"fsGroup":                 {row: myGroups, rows: map[string]string{"sandboxed": theirs}, make: func(s *scene) { s.above(0o755, 0, 0); s.mkdir(s.dir(), 0o775|setgid, 0, team) }},
	"a colleague's":           {row: myGroups, rows: map[string]string{"sandboxed": theirs}, make: func(s *scene) { s.above(0o755, 0, 0); s.mkdir(s.dir(), 0o770|setgid, other, team) }},
	"of a group in a group's": {row: myGroups, rows: map[string]string{"sandboxed": theirs}, make: func(s *scene) { s.above(0o775|setgid, 0, team); s.mkdir(s.dir(), 0o775|setgid, 0, team) }},
	"another group's":         {row: othersGroups, make: func(s *scene) { s.in(0o770, s.uid, otherGroup) }},
	"world-writable":          {row: everybodys, make: func(s *scene) { s.in(0o777, s.uid, 0) }},
	"an emptyDir":             {row: everybodys, make: func(s *scene) { s.in(0o777, 0, 0) }},
	"symlinked": {row: linked, rows: map[string]string{"sandboxed": minePrivate, "nobody": badlyLinked}, make: func(s *scene) {
		s.above(0o755, 0, 0)
		s.mkdir(filepath.Join(s.base, "real"), 0o700, s.uid, 0)
		s.link("../real", s.uid)
	}},
	"CacheDirectory": {row: linked, rows: map[string]string{"sandboxed": badlyLinked}, make: func(s *scene) {
		s.above(0o755, 0, 0)
		s.mkdir(filepath.Join(s.base, "private"), 0o755, 0, 0)
		s.mkdir(filepath.Join(s.base, "private", "cache"), 0o755, s.uid, 0)
		s.link("../private/cache", 0)
	}},
	"dangling": {row: badlyLinked, make: func(s *scene) { s.above(0o755, s.uid, 0); s.link("../real", s.uid) }},
	"symlinked by others": {row: badlyLinked, make: func(s *scene) {
		s.above(0o777|sticky, 0, 0)
		s.mkdir(filepath.Join(s.base, "real"), 0o700, s.uid, 0)
		s.link("../real", other)
	}},
	"above symlinked by others": {row: badlyLinked, make: func(s *scene) {
		s.mkdir(filepath.Join(s.base, "real"), 0o755, 0, 0)
		s.mkdir(filepath.Join(s.base, "real", "cache"), 0o700, s.uid, 0)
		require.NoError(s.t, os.Symlink("real", filepath.Dir(s.dir())))
		require.NoError(s.t, os.Lchown(filepath.Dir(s.dir()), other, other))
	}},
}

// accessOptions are the columns of the table.
var accessOptions = map[string]modcache.DiskOptions{
	"as it is":            {},
	"`DiskOptions.Group`": {Group: true},
	"`DiskOptions.Key`":   {Key: []byte("a secret of sixteen bytes or more")},
}

// accessCase is what a process tries, and what came of it.
type accessCase struct {
	User, Situation, Column string
	ReadOnly                bool
	Dir                     string
	Umask                   int // 0: one that takes everything from others

	Opened, Insecure, Added bool
	Err                     string
}

func (c accessCase) String() string {
	return fmt.Sprintf("%s: %s, %s, ReadOnly %t", c.User, c.Situation, c.Column, c.ReadOnly)
}

func (c *accessCase) try() {
	if c.Umask != 0 {
		defer syscall.Umask(syscall.Umask(c.Umask))
	}
	o := accessOptions[c.Column]
	o.ReadOnly, o.MinFree = c.ReadOnly, -1
	d, err := modcache.OpenDisk(c.Dir, &o)
	if c.Opened = err == nil; !c.Opened {
		c.Insecure, c.Err = errors.Is(err, modcache.ErrInsecureDir), err.Error()
		return
	}
	defer d.Close()
	if err = d.Add(bg, diskKey(1), diskArtifact(1, 100)); err != nil {
		c.Err = err.Error()
		return
	}
	_, c.Added, _ = d.Get(bg, diskKey(1))
}

// accessTable reads the table of docs/trust.md: the outcome by row and column.
func accessTable(t *testing.T) map[string]map[string]string {
	text, err := os.ReadFile("docs/trust.md")
	require.NoError(t, err)
	_, text, found := bytes.Cut(text, []byte("## The directory\n"))
	require.True(t, found)
	table := map[string]map[string]string{}
	var columns []string
	for _, line := range regexp.MustCompile(`(?m)^\|.*\|$`).FindAllString(string(text), -1) {
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		switch {
		case columns == nil:
			columns = cells
			require.ElementsMatch(t, columns[1:], sortedKeys(accessOptions))
		case strings.HasPrefix(line, "|--"):
		default:
			table[cells[0]] = map[string]string{}
			for i, column := range columns[1:] {
				table[cells[0]][column] = cells[i+1]
			}
		}
	}
	return table
}

// TestDiskAccess compares what OpenDisk does with the table in docs/trust.md, for several
// users, and sees that what it refuses leaves no trace.
func TestDiskAccess(t *testing.T) {
	if input := os.Getenv(accessCasesInChild); input != "" {
		var cases []accessCase
		require.NoError(t, json.Unmarshal([]byte(input), &cases))
		syscall.Umask(0o077) // which says nothing about a directory that is shared
		for _, c := range cases {
			c.try()
			b, err := json.Marshal(c)
			require.NoError(t, err)
			fmt.Printf("\nCASE %s\n", b)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: who may write to a directory, which takes root to try as several users")
	}
	table, seen := accessTable(t), map[string]bool{}
	for user, who := range accessUsers {
		t.Run(user, func(t *testing.T) {
			base := openToAll(t, t.TempDir())
			var cases []accessCase
			before := map[string]string{}
			for name, situation := range accessSituations {
				if row, ok := situation.rows[user]; ok && row == "" {
					continue
				}
				for column := range accessOptions {
					for _, readOnly := range []bool{false, true} {
						s := scene{t, filepath.Join(base, fmt.Sprint(len(cases))), who.uid}
						s.mkdir(s.base, 0o755, 0, 0)
						situation.make(&s)
						cases = append(cases, accessCase{User: user, Situation: name, Column: column, ReadOnly: readOnly, Dir: s.dir()})
						before[s.dir()] = traces(t, s.base)
					}
				}
			}
			for _, c := range tryAs(t, who, cases) {
				situation := accessSituations[c.Situation]
				row := situation.row
				if r, ok := situation.rows[user]; ok {
					row = r
				}
				seen[row] = true
				want, known := table[row][c.Column]
				require.True(t, known, "docs/trust.md has no row %q", row)
				if want, _, _ = strings.Cut(want, ","); c.ReadOnly && strings.HasPrefix(row, "is missing") {
					want = "made" // or rather not: the store is empty
				}
				now := traces(t, filepath.Dir(filepath.Dir(c.Dir)))
				switch want {
				case "refused":
					require.False(t, c.Opened, c)
					require.Equal(t, before[c.Dir], now, "%v: a trace was left", c)
				case "made", "used", "as what it leads to":
					writes := !situation.fails || who.uid == 0
					require.Equal(t, writes || c.ReadOnly, c.Opened, "%v: %s", c, c.Err)
					require.False(t, c.Insecure, c)
					require.Equal(t, writes && !c.ReadOnly, c.Added, "%v: %s", c, c.Err)
					if !c.Added {
						require.Equal(t, before[c.Dir], now, "%v: a trace was left", c)
					}
				default:
					t.Fatalf("docs/trust.md says %q", want)
				}
			}
		})
	}
	for row := range table {
		require.True(t, seen[row], "no case is about %q", row)
	}
}

// openToAll lets every user pass through to a test's directory.
func openToAll(t *testing.T, dir string) string {
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	return dir
}

// tryAs runs cases in a process of that user.
func tryAs(t *testing.T, who accessUser, cases []accessCase) (done []accessCase) {
	input, err := json.Marshal(cases)
	require.NoError(t, err)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestDiskAccess$")
	cmd.Dir, cmd.Stderr = "/", os.Stderr
	cmd.Env = append(os.Environ(), accessCasesInChild+"="+string(input))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(who.uid), Gid: uint32(who.gid), Groups: []uint32{team}}}
	if who.maps != nil {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = who.maps, who.maps
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		if who.gids != nil { // the child keeps the groups of this process
			groups, err := syscall.Getgroups()
			require.NoError(t, err)
			require.NoError(t, syscall.Setgroups([]int{otherGroup + 1}))
			defer syscall.Setgroups(groups)
			cmd.SysProcAttr.GidMappings, cmd.SysProcAttr.Credential.NoSetGroups = who.gids, true
		}
	}
	out, err := cmd.Output()
	if _, ran := err.(*exec.ExitError); err != nil && !ran {
		t.Skip("NOT TESTED: user namespaces, which can't be made here:", err)
	}
	require.NoError(t, err, "%s", out)
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), "CASE "); ok {
			var c accessCase
			require.NoError(t, json.Unmarshal([]byte(text), &c))
			done = append(done, c)
		}
	}
	require.Len(t, done, len(cases))
	return done
}

// traces says what is below a directory: names, owners, modes and times of change.
func traces(t *testing.T, dir string) string {
	var all strings.Builder
	require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		require.NoError(t, err)
		fi, err := e.Info()
		require.NoError(t, err)
		st := fi.Sys().(*syscall.Stat_t)
		fmt.Fprintln(&all, path, fi.Mode(), st.Uid, st.Gid, st.Ctim, st.Mtim)
		return nil
	}))
	return all.String()
}

func sortedKeys[V any](m map[string]V) (keys []string) {
	for k := range maps.Keys(m) {
		keys = append(keys, k)
	}
	return keys
}
