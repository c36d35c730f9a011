package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bundle"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/layout"
)

var pullCommand = command{
	name: "pull", args: "[bundle] | url module-directory-or-key...",
	short: "store the entries of a bundle, or what a server has for modules",
	long: `
Stores the entries of a bundle that push has written, from a file or from
standard input. Each entry is verified to its last byte before it is stored,
and stored at once or not at all; a damaged one is left out, and reported with
exit code 3. An interrupted pull leaves a correct cache: pull again.

From a server, which doesn't list what it has, it takes what belongs to modules
(those of a directory end in .wasm), or is under whole keys. What modcache warm
-h says of wazero, platform and settings holds for modules; the drop-in has
other keys. Under a key there may be an alias, which leads to the code of
another spelling of a module: a module brings both, and a key what is under it.
What isn't there is reported with exit code 3, as is a key whose alias leads to
code that isn't, whatever its settings; -n looks only at what the server has
under a key.

Machine code runs in the programs that find it. With -keyring, an entry is
taken only if one of the public keys in that file has signed it, and the file
doesn't revoke the key: lines that keygen has printed, and lines of "revoked"
and a key's id. With -bundle-key-file, only what was sealed with that secret
is. With neither, pull bundles that came straight from people you trust to run
code on this machine; signed ones are refused. A server's entries need one.
` + urlHelp,
	make: func(fs *flag.FlagSet) action {
		p := &puller{maxEntry: 1 << 30, coded: map[code]bool{}, aliases: map[modcache.Key]*modcache.Artifact{}}
		p.dir.register(fs)
		p.seal.register(fs)
		fs.StringVar(&p.seal.keyring, "keyring", "", "take only what one of the public keys in this file, such as `trusted.keys`, has signed")
		fs.BoolVar(&p.dry, "n", false, "verify the bundle and store nothing")
		fs.BoolVar(&p.asJSON, "json", false, "one JSON object")
		fs.BoolVar(&p.compress, "compress", false, "store compressed; see DiskOptions.Compress")
		p.mode.register(fs)
		p.engineFlags.register(fs)
		p.configFlags.register(fs)
		fs.Var(&p.maxBytes, "max-bytes", "drop what went unused longest beyond this size, such as `2GiB`; by default nothing is dropped")
		fs.Var(&p.maxEntry, "max-entry", "refuse machine code larger than this size, such as `256MiB`; a pull may take two and a half times as much memory")
		return p.run
	},
}

type puller struct {
	dir dirFlags
	engineFlags
	configFlags
	seal               bundleFlags
	dry, compress      bool
	asJSON             bool
	maxBytes, maxEntry byteCount
	mode               modeFlag

	frame *frame.Options
	disk  *keeper // nil if dry

	coded   map[code]bool                       // what came has the code of
	aliases map[modcache.Key]*modcache.Artifact // that came, and would take the place of others

	// Outcomes.
	sound, bad int
	stored     atomic.Int64
	bytes      atomic.Int64 // of machine code in what was stored
}

// pullReport is what pull tells scripts.
type pullReport struct {
	DryRun    bool  `json:"dry_run"`    // nothing is stored
	Found     int   `json:"found"`      // sound entries of a bundle; keys and modules that a server has
	Missing   int   `json:"missing"`    // on the server; or what an alias under a key leads to
	LeftOut   int   `json:"left_out"`   // damaged, too large, or of somebody who isn't trusted
	Stored    int   `json:"stored"`     // entries that weren't there yet; a module may take two
	CodeBytes int64 `json:"code_bytes"` // of machine code in those
}

// report prints r, which lacks what was stored, or else a line.
func (p *puller) report(s *streams, r pullReport, line string) {
	if !p.asJSON {
		fmt.Fprintln(s.out, line)
		return
	}
	r.DryRun, r.Stored, r.CodeBytes = p.dry, int(p.stored.Load()), p.bytes.Load()
	_ = s.json(r)
}

func (p *puller) run(ctx context.Context, s *streams, operands []string) (err error) {
	url, operands, err := splitURL(operands)
	if err != nil {
		return err
	}
	in := s.in
	switch {
	case p.mode.mode != 0 && (p.dry || p.dir.group):
		return usagef("-mode has no meaning with -n and -group")
	case url != "":
		return p.fromServer(ctx, s, url, operands)
	case len(operands) > 1:
		return usagef("one bundle at a time")
	case len(operands) == 1 && operands[0] != "-":
		f, err := os.Open(operands[0])
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	if p.frame, err = p.seal.options(); err != nil {
		return err
	}
	pipe := untilDone(ctx, in)
	defer pipe.Close()
	t := tar.NewReader(pipe)
	if err := checkBundle(t); err != nil {
		return cmp.Or(ctx.Err(), err)
	}
	if !p.dry {
		if err := p.openDir(ctx, s); err != nil {
			return err
		}
		defer p.disk.Close()
	}
	err = p.all(ctx, s, t)
	if err == nil {
		err = nothingFollows(pipe, behindEnd)
	}
	beyond, err := p.closeDir(ctx, err)
	stored := int(p.stored.Load())
	line := fmt.Sprintf("%d sound, %d stored, %d present", p.sound, stored, p.sound-stored)
	if p.dry {
		line = fmt.Sprintf("%d sound", p.sound)
	}
	p.report(s, pullReport{Found: p.sound, LeftOut: p.bad}, line)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("%w; what was stored until then is complete, pull again", err)
	case beyond != nil:
		return beyond
	case p.bad > 0:
		return foundError(plural(p.bad, "entry was", "entries were") + " left out; see above")
	case !p.dry:
		return p.disk.missed(ctx)
	}
	return nil
}

// isUnusable tells an entry that is left out from a source that failed.
func isUnusable(err error) bool {
	return errors.Is(err, modcache.ErrCorrupt) || errors.Is(err, modcache.ErrAuth) || errors.Is(err, modcache.ErrTooLarge)
}

// openDir opens the directory to store in, for the caller to close.
func (p *puller) openDir(ctx context.Context, s *streams) (err error) {
	if dir, err := p.dir.path(); err == nil {
		p.mode.begin(dir)
	}
	o := modcache.DiskOptions{MaxBytes: int64(p.maxBytes), Compress: p.compress, OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventStored {
			p.stored.Add(1)
			p.bytes.Add(e.Bytes)
		}
	}}
	disk, err := p.dir.open(ctx, s, o, true)
	p.disk = &keeper{Disk: disk, bounded: p.maxBytes > 0}
	return err
}

// closeDir drops what is too much, which may fail with beyond, and makes durable and readable for whom it is meant what was stored. The
// other error includes what went wrong before.
func (p *puller) closeDir(ctx context.Context, before error) (beyond, err error) {
	if p.dry {
		return nil, before
	}
	beyond = p.disk.keepWithin(ctx)
	return beyond, errors.Join(before, p.disk.Flush(context.WithoutCancel(ctx)), p.mode.end(p.disk.Dir()))
}

// untilDone reads r until ctx ends, also while it waits for bytes. A read of r that is
// under way then goes on until the process ends.
func untilDone(ctx context.Context, r io.Reader) *io.PipeReader {
	out, in := io.Pipe()
	context.AfterFunc(ctx, func() { in.CloseWithError(ctx.Err()) })
	go func() {
		_, err := io.Copy(in, r)
		in.CloseWithError(err)
	}()
	return out
}

// checkBundle reads the first member, which only bundles have.
func checkBundle(t *tar.Reader) error {
	h, err := t.Next()
	if err != nil || h.Name != bundle.Start {
		return errors.New("this is not a bundle that modcache has written; nothing was stored")
	}
	text, err := io.ReadAll(io.LimitReader(t, int64(len(bundle.StartText))+1))
	if err != nil || string(text) != bundle.StartText {
		return errors.New("this bundle has a format that this version doesn't know; use the version of modcache that wrote it, or a later one")
	}
	return nil
}

// all takes one entry after the other. Its error is one that ends the bundle, or of
// storing.
func (p *puller) all(ctx context.Context, s *streams, t *tar.Reader) error {
	for {
		h, err := t.Next()
		switch {
		case err == nil && h.Name == bundle.End:
			if err := p.checkEnd(t); err != nil {
				return err
			}
			return p.addAliases(ctx)
		case err != nil:
			return fmt.Errorf("the bundle ends early or is damaged after %s: %w", plural(p.sound+p.bad, "entry", "entries"), err)
		}
		key, a, err := p.decode(h, t)
		switch {
		case err == nil:
		case isUnusable(err):
			p.bad++
			fmt.Fprintf(s.err, "%s  %s\n", nameOf(h), plain(err))
			continue
		default:
			return fmt.Errorf("the bundle ends early in %s: %w", nameOf(h), err)
		}
		p.sound++
		if p.dry {
			continue
		}
		if err := p.add(ctx, key, a); err != nil {
			return err
		}
	}
}

// add stores an entry of a bundle or a server, and takes it over. An alias takes the place of another at the end, if its code is known
// by then: that of the other may be there.
func (p *puller) add(ctx context.Context, key modcache.Key, a *modcache.Artifact) error {
	held := codeOf(a.Info())
	if !isAlias(a.Info()) {
		p.coded[held] = true
	} else if there, ok, err := p.disk.Stat(ctx, key); err == nil && ok && isAlias(there.Info) && codeOf(there.Info) != held {
		p.aliases[key] = a
		return nil
	}
	defer a.Close()
	return p.disk.Add(ctx, key, a)
}

// addAliases adds those whose code came along, or was in the directory before where that of the other isn't.
func (p *puller) addAliases(ctx context.Context) error {
	if len(p.aliases) == 0 {
		return nil
	}
	held, err := p.held(ctx)
	if err != nil {
		return err
	}
	for key, a := range p.aliases {
		defer a.Close()
		there, _, err := p.disk.Stat(ctx, key)
		if code := codeOf(a.Info()); err == nil && (p.coded[code] || held[code] && !held[codeOf(there.Info)]) {
			err = p.disk.Add(ctx, key, a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// held returns what the directory has the code of.
func (p *puller) held(ctx context.Context) (map[code]bool, error) {
	var entries []modcache.DiskEntry
	for e, err := range p.disk.Walk(ctx) {
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return codes(entries), nil
}

// nameOf returns as much of a member's name as those of entries have.
func nameOf(h *tar.Header) string { return fmt.Sprintf("%.80s", printable(h.Name)) }

// checkEnd reads the member behind the entries, and what may follow it: an index, which says
// nothing that isn't known by now, but whose writer waits until somebody has read it.
func (p *puller) checkEnd(t *tar.Reader) error {
	want := bundle.EndText(p.sound + p.bad)
	got, err := io.ReadAll(io.LimitReader(t, int64(len(want))+1))
	if err == nil && string(got) != want {
		err = fmt.Errorf("it says that it has %q", got)
	}
	for err == nil {
		var h *tar.Header
		if h, err = t.Next(); err == nil && h.Name != bundle.Index {
			err = fmt.Errorf("%s follows", nameOf(h))
		}
	}
	if err != io.EOF {
		return fmt.Errorf("the bundle is damaged: after %s, %w", plural(p.sound+p.bad, "entry", "entries"), err)
	}
	return nil
}

// behindEnd is how long pull looks at what follows a bundle. A pipe may stay open for ever.
const behindEnd = 3 * time.Second

// nothingFollows reads on behind the end of a tar file, where there are at most zeros. It takes no longer than wait, and closes
// the pipe then.
func nothingFollows(pipe *io.PipeReader, wait time.Duration) error {
	defer time.AfterFunc(wait, func() { pipe.Close() }).Stop()
	b := make([]byte, 32<<10)
	for {
		n, err := pipe.Read(b)
		switch {
		case len(bytes.Trim(b[:n], "\x00")) > 0:
			return errors.New("something follows the end of the bundle, and was left out: pull bundles one at a time")
		case err == io.EOF || err == io.ErrClosedPipe:
			return nil
		case err != nil:
			return err
		}
	}
}

// decode reads and verifies the entry of one member.
func (p *puller) decode(h *tar.Header, r io.Reader) (key modcache.Key, a *modcache.Artifact, err error) {
	name, ok := strings.CutSuffix(h.Name, layout.Suffix)
	if key, err = modcache.ParseKey(name); !ok || err != nil || h.Typeflag != tar.TypeReg {
		return key, nil, fmt.Errorf("%w: not an entry", modcache.ErrCorrupt)
	}
	buffered := bufio.NewReaderSize(r, sealLen)
	head, _ := buffered.Peek(sealLen) // if it's shorter, the stream says so
	head = bytes.Clone(head)
	stream, err := frame.NewStream(buffered, key, int64(p.maxEntry), p.frame)
	if errors.Is(err, modcache.ErrOtherKey) { // sealed with something else than was asked for
		return key, nil, p.seal.refuse(head)
	}
	if err != nil {
		return key, nil, err
	}
	b, err := received(stream)
	if err != nil {
		return key, nil, err
	}
	return key, modcache.NewArtifact(b, frame.InfoOf[modcache.Info](stream.Meta())), nil
}

// received reads a stream to its end. Its header may claim any size: what is allocated at
// once is little, or as much again as has arrived, and never more than the claim.
func received(s *frame.Stream) ([]byte, error) {
	const little = 1 << 20
	var b []byte
	for missing := s.Size(); missing > 0; missing = s.Size() - int64(len(b)) {
		have := len(b)
		grown := make([]byte, have+int(min(missing, max(int64(have), little))))
		copy(grown, b)
		if _, err := io.ReadFull(s, grown[have:]); err != nil {
			return nil, err
		}
		b = grown
	}
	_, err := s.Read(make([]byte, 1)) // which sees that nothing follows
	if err == io.EOF {
		err = nil
	}
	return b, err
}
