package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/modcache/modcache/internal/wasmtest"
)

// recipe is a section of docs/deploy.md.
type recipe struct {
	t    *testing.T
	text string
}

func recipeOf(t *testing.T, title string) recipe {
	text, err := os.ReadFile(filepath.Join(moduleRoot(t), "docs", "deploy.md"))
	require.NoError(t, err)
	_, after, found := strings.Cut(string(text), "\n## "+title+"\n")
	require.True(t, found, "docs/deploy.md has no section %q", title)
	section, _, _ := strings.Cut(after, "\n## ")
	return recipe{t, section}
}

// find returns what the groups of the expression match, which the recipe must have.
func (r recipe) find(expression string) []string {
	r.t.Helper()
	found := regexp.MustCompile(expression).FindStringSubmatch(r.text)
	require.NotNil(r.t, found, "the recipe has no %s", expression)
	return found[1:]
}

func (r recipe) one(expression string) string {
	r.t.Helper()
	return r.find(expression)[0]
}

// lines returns those that begin with a word, without it.
func (r recipe) lines(word string) (rest []string) {
	for _, m := range regexp.MustCompile(`(?m)^`+word+`(.*)$`).FindAllStringSubmatch(r.text, -1) {
		rest = append(rest, m[1])
	}
	require.NotEmpty(r.t, rest, "the recipe has no line of %s", word)
	return rest
}

// jail is a file system like that of this machine, in a mount namespace of its own, in which everything may be
// done.
type jail struct {
	t        *testing.T
	programs string // a directory with app, modcache, go and plugins
}

// prelude makes the jail below $JAIL and runs a script in it.
const prelude = `
mount -t tmpfs -o mode=755 tmpfs "$JAIL"
cd "$JAIL"
mkdir up work root
mount -t overlay overlay -o lowerdir=/,upperdir=up,workdir=work root
mount -t proc proc root/proc
mount --bind /dev root/dev
mount -t tmpfs -o mode=1777 tmpfs root/tmp
mkdir root/programs
mount --bind "$PROGRAMS" root/programs
cd root
mkdir .old
pivot_root . .old
umount -l /.old
exec sh /programs/script
`

// beginning is that of each script. "as USER COMMAND" runs a command as a user with an environment of its own.
const beginning = `
set -eu
export PATH="/programs:$PATH"
as() { user=$1; shift; setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs env -i PATH="$PATH" "$@"; }
readonly_root() { mount -o remount,bind,ro /; }
`

// try runs a script in a new jail, and returns what it printed.
func (j jail) try(script string) (string, error) {
	require.NoError(j.t, os.WriteFile(filepath.Join(j.programs, "script"), []byte(beginning+script), 0o644))
	cmd := exec.Command("unshare", "-m", "sh", "-euc", prelude)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "JAIL=" + j.t.TempDir(), "PROGRAMS=" + j.programs}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (j jail) run(script string) string {
	j.t.Helper()
	out, err := j.try(script)
	require.NoError(j.t, err, "%s\n%s", script, out)
	return out
}

// requireApp checks what the programs said, one after the other.
func (j jail) requireApp(out string, want ...string) {
	j.t.Helper()
	got := regexp.MustCompile(`(?m)^app: .*$`).FindAllString(out, -1)
	require.Len(j.t, got, len(want), out)
	for i, line := range got {
		require.Contains(j.t, line, want[i], out)
	}
}

func newJail(t *testing.T) jail {
	needsCompiler(t)
	if testing.Short() {
		t.Skip("NOT TESTED: docs/deploy.md, for which programs are built")
	}
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: docs/deploy.md, which takes root for mounts and other users")
	}
	for _, tool := range []string{"unshare", "setpriv", "mount", "chroot", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("NOT TESTED: docs/deploy.md, which takes", tool)
		}
	}
	j := jail{t, t.TempDir()}
	for d := j.programs; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	for name, pkg := range map[string]string{"app": "./internal/e2e/testdata/deploy", "modcache": "./cmd/modcache"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(j.programs, name), pkg)
		cmd.Dir = moduleRoot(t)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	plugins := filepath.Join(j.programs, "plugins")
	require.NoError(t, os.Mkdir(plugins, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(plugins, "a.wasm"), wasmtest.Sum(40, 1), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(plugins, "b.wasm"), wasmtest.Sum(40, 2), 0o644))
	// The go command of a jail: "go build" has built already, and "go tool modcache" is modcache.
	shim := "#!/bin/sh\n[ \"$1 $2\" != 'tool modcache' ] || { shift 2; exec modcache \"$@\"; }\n"
	require.NoError(t, os.WriteFile(filepath.Join(j.programs, "go"), []byte(shim), 0o755))
	if out, err := j.try(":"); err != nil {
		t.Skip("NOT TESTED: docs/deploy.md, which takes a mount namespace with an overlay:", err, out)
	}
	return j
}

// commandLine is a list in a document, as a shell reads it.
func commandLine(list string) string {
	return strings.NewReplacer(`"`, "", ",", "").Replace(list)
}

// TestDeploy runs the recipes of docs/deploy.md, as they are there.
func TestDeploy(t *testing.T) {
	j := newJail(t)
	for name, recipe := range map[string]func(*testing.T, jail){
		"image": deployImage, "emptyDir": deployEmptyDir, "fsGroup": deployGroup, "systemd": deploySystemd, "functions": deployFunctions,
		"Bazel": deployBazel, "Nix": deployNix, "CI": deployCI,
	} {
		t.Run(name, func(t *testing.T) { recipe(t, jail{t, j.programs}) })
	}
}

func deployImage(t *testing.T, j jail) {
	r := recipeOf(t, "An image")
	script := "mkdir -p " + r.lines("WORKDIR ")[0] + "; cp -r /programs/plugins " + r.lines("WORKDIR ")[0] + "; cp /programs/app /app\n"
	script += "cd " + r.lines("WORKDIR ")[0] + "\n" + strings.Join(r.lines("RUN "), "\n") + "\n"
	for _, from := range r.lines("COPY --from=build ") {
		parts := strings.Fields(from)
		script += "[ " + parts[0] + " = " + parts[1] + " ] || cp -r " + from + "\n"
	}
	app := "as " + r.lines("USER ")[0] + " " + r.lines("ENV ")[0] + " " + commandLine(r.one(`CMD \[(.*)\]`)) + " /plugins/b.wasm\n"
	j.requireApp(j.run(script+app+"readonly_root\n"+app+strings.ReplaceAll(app, "MODCACHE=ro", "")),
		"0 compiled", "0 compiled", "0 compiled, not storing")
}

func deployEmptyDir(t *testing.T, j jail) {
	r := recipeOf(t, "Kubernetes")
	user := r.one(`runAsUser: (\d+)`)
	env := "MODCACHE_DIR=" + r.one(`MODCACHE_DIR, value: ([^}]*)}`)
	mount := r.one(`mountPath: ([^}]*)}`)
	script := `mkdir -p ` + mount + `; cp -r /programs/plugins /programs/app /programs/modcache /
mount -t tmpfs -o mode=0777 emptyDir ` + mount + `
readonly_root
`
	app := "as " + user + " " + env + " " + commandLine(r.one(`(?s)name: app.*?command: \[(.*?)\]`)) + "\n"
	j.requireApp(j.run(script+"as "+user+" "+env+" "+commandLine(r.one(`command: \[(.*)\]`))+"\n"+app+app), "0 compiled, storing", "0 compiled, storing")

	// Without the init container; and as two users, of whom the second finds a directory that isn't his.
	j.requireApp(j.run(script+app+app+strings.Replace(app, user, "20002", 1)),
		"1 compiled, storing", "0 compiled, storing", "1 compiled, in memory only")
	// The volume itself is everybody's.
	j.requireApp(j.run(script+strings.Replace(app, "/modcache ", " ", 1)), "1 compiled, in memory only")
}

func deployGroup(t *testing.T, j jail) {
	r := recipeOf(t, "Kubernetes")
	r.find("(OnRootMismatch)")
	r.find("(DiskOptions.Group)")
	const script = `mkdir -p /data; cp -r /programs/plugins /programs/app /
mount -t tmpfs -o mode=0755 volume /data
remount() { chgrp -R 2000 /data; chmod -R ug+rw /data; find /data -type d -exec chmod g+xs {} +; }
app() { setpriv --reuid 10001 --regid 10001 --groups 2000 --no-new-privs env -i MODCACHE_DIR=/data/modcache /app "$@" /plugins/a.wasm; }
remount
`
	// The first mount; then with each policy. A directory that is made private again holds what the group could have written.
	j.requireApp(j.run(script+"app; app; remount; app; chmod 700 /data/modcache; app; app"),
		"1 compiled, storing", "0 compiled, storing", "1 compiled, in memory only", "1 compiled, storing", "0 compiled, storing")
	j.requireApp(j.run(script+"app -group; remount; app -group; remount; app -group"),
		"1 compiled, storing", "0 compiled, storing", "0 compiled, storing")
}

func deploySystemd(t *testing.T, j jail) {
	r := recipeOf(t, "systemd")
	require.Equal(t, []string{"yes"}, r.lines("DynamicUser="))
	require.Equal(t, []string{"no"}, r.lines("MemoryDenyWriteExecute="))
	name := r.lines("CacheDirectory=")[0]
	app := "as 61234 " + strings.ReplaceAll(r.lines("Environment=")[0], "%C", "/var/cache") + " " + r.lines("ExecStart=")[0] + "\n"
	j.requireApp(j.run(`mkdir -p /srv /usr/local/bin /var/cache/private
chmod 755 /var/cache/private # as the service sees it
cp -r /programs/plugins /srv; cp /programs/app /usr/local/bin/app
mkdir -m 755 /var/cache/private/`+name+`; chown 61234:61234 /var/cache/private/`+name+`
ln -s private/`+name+` /var/cache/`+name+`
`+app+app), "1 compiled, storing", "0 compiled, storing")
}

func deployFunctions(t *testing.T, j jail) {
	env := recipeOf(t, "Functions as a service").one(`export (.*)`)
	app := "as 993 " + env + " /programs/app /programs/plugins/a.wasm\n"
	j.requireApp(j.run("readonly_root\n"+app+app), "1 compiled, storing", "0 compiled, storing")
	// With no word of it at all, the program runs.
	j.requireApp(j.run("readonly_root\n"+strings.Replace(app, env, "", 1)), "1 compiled, in memory only")
}

func deployBazel(t *testing.T, j jail) {
	r := recipeOf(t, "Bazel")
	path, make := r.one(`--sandbox_writable_path=(\S+)`), r.one("`(mkdir [^`]*)`")
	// The sandbox maps one user, and mounts all else read-only.
	app := `as 1000 unshare --user --map-user=1000 --map-group=1000 env -i ` + r.one(`--test_env=(\S+)`) + " /programs/app /programs/plugins/a.wasm\n"
	j.requireApp(j.run("mkdir -p -m 1777 /var/tmp\nas 1000 "+make+"\nmount --bind "+path+" "+path+"\nreadonly_root\n"+app+app),
		"1 compiled, storing", "0 compiled, storing")
}

func deployNix(t *testing.T, j jail) {
	r := recipeOf(t, "Nix")
	warm := strings.NewReplacer("$out", "/nix/store/cache", "${app}/bin/app", "/programs/app", "${plugins}", "/programs/plugins").Replace(r.one(`(modcache warm .*)`))
	app := "as 1000 MODCACHE=ro MODCACHE_DIR=/nix/store/cache /programs/app /programs/plugins/a.wasm\n"
	j.requireApp(j.run(`mkdir -p /nix/store; chmod 1775 /nix/store; chown 0:30000 /nix /nix/store; chown 0:0 /nix
setpriv --reuid 30001 --regid 30000 --clear-groups --no-new-privs env -i PATH="$PATH" HOME=/homeless-shelter `+warm+`
chown -R 0:0 /nix/store/cache
find /nix/store/cache -type d -exec chmod 0555 {} +; find /nix/store/cache -type f -exec chmod 0444 {} +
find /nix/store/cache -exec touch -d @1 {} +
`+app+app), "0 compiled", "0 compiled")
}

func deployCI(t *testing.T, j jail) {
	r := recipeOf(t, "CI")
	path := strings.Replace(r.one(`path: (\S+)`), "~", "/home/runner", 1)
	trim := strings.NewReplacer("go tool ", "", "~", "/home/runner").Replace(r.one(`(go tool modcache trim .*)`))
	app := "as 1001 HOME=/home/runner MODCACHE_DIR=" + path + " /programs/app /programs/plugins/a.wasm\n"
	j.requireApp(j.run(`mkdir -p /home/runner; chown 1001:1001 /home/runner
`+app+"as 1001 HOME=/home/runner "+trim+`
tar -C / -czf /archive `+path+`; rm -r /home/runner/.cache
as 1001 tar -C / -xzf /archive `+strings.TrimPrefix(path, "/")+"\n"+app), "1 compiled, storing", "0 compiled, storing")

	// A container job: root with the runner's home.
	root := "env -i HOME=/home/runner /programs/app /programs/plugins/a.wasm\n"
	out := j.run("mkdir -p /home/runner; chown 1001:1001 /home/runner\n" + root + "ls -A /home/runner\n" + root[:6] + " MODCACHE_DIR=/opt/cache " + root[6:])
	j.requireApp(out, "1 compiled, in memory only", "1 compiled, storing")
	require.NotContains(t, out, ".cache\n")
}
