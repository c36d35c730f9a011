package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bundle/pack"
	"github.com/modcache/modcache/internal/bytesize"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/remote"
)

var pushCommand = command{
	name: "push", args: "[url] [key...]",
	short: "upload entries to a server, or write them to a bundle",
	long: `
Uploads entries of a cache to a server, or writes them to a bundle, a tar file
that pull reads on another machine: all of them, or those that keys or flags
select. The bundle goes to standard output, or to the file of -o, which appears
when it is complete; what isn't a regular file, such as a device or a pipe, is
written to as it is. What can't be read or verified is left out, and reported
with exit code 3; so is what modcache serve keeps, signed, for its clients:
push from the directory that they uploaded from.

What is on the server already, signed with the same key, stays as it is, as
far as its first bytes tell: warm -to reads all of it, and replaces what is
damaged. What another has signed is replaced, so let one key sign what is at
one URL. So are aliases, which lead to the code of one spelling of a module,
by those of this directory.

Machine code runs in the programs that find it. With -sign, each entry is
signed, and pull takes it only from those whose public key it trusts; keygen
makes the keys. With -bundle-key-file, a secret takes their place, and whoever
can pull can also push. With neither, a bundle proves that it wasn't damaged,
not who made it; a server gets nothing.
` + urlHelp,
	make: func(fs *flag.FlagSet) action {
		var dir dirFlags
		var sel selection
		var seal bundleFlags
		dir.register(fs)
		sel.register(fs)
		seal.register(fs)
		fs.StringVar(&seal.sign, "sign", "", "the private key to sign with, in a file such as `signing.key`; see modcache keygen")
		file := fs.String("o", "-", "write to this file, such as `plugins.bundle`; - is standard output")
		p := &pusher{}
		fs.BoolVar(&p.asJSON, "json", false, "one JSON object on standard output; a bundle needs -o then")
		return func(ctx context.Context, s *streams, operands []string) error {
			url, keys, err := splitURL(operands)
			var to *place
			var o *remote.Options
			switch {
			case err != nil:
			case isURL(*file):
				err = errOutputURL
			case url != "" && *file != "-":
				err = usagef("-o is for a bundle, not for a URL")
			case url != "":
				to, o, err = seal.placeAt(url, "-sign")
			case *file == "-" && p.asJSON:
				err = usagef("-json is for standard output, where the bundle goes: name a file for it with -o")
			case *file == "-" && s.outIsTerminal:
				err = usagef("a bundle is nothing to read on a terminal; name a file with -o, or redirect the output")
			default:
				p.frame, err = seal.options()
			}
			if err != nil {
				return err
			}
			disk, err := dir.open(ctx, s, modcache.DiskOptions{ReadOnly: true, OnEvent: p.trouble.observe}, false)
			if err != nil {
				return err
			}
			defer disk.Close()
			entries, err := sel.pick(ctx, disk, keys)
			if err != nil {
				return err
			}
			copies, idle, coded := 0, 0, codes(entries)
			for _, e := range entries {
				switch {
				case isServed(e):
					if head := servedHead(ctx, disk, e); head != nil && head.Key != e.Key {
						copies++
					} else {
						p.done.LeftOut++
					}
				case isAlias(e.Info) && len(keys) == 0 && !coded[codeOf(e.Info)]: // it would take the place of one that leads to code
					idle++
				default:
					p.entries = append(p.entries, outgoing{e.Key, e.Info, disk})
				}
			}
			// What serve -sign keeps is made of other entries: it counts if somebody asks for it, or it is all there is.
			if len(keys) > 0 || len(p.entries) == 0 {
				p.done.LeftOut += copies
			}
			if p.done.LeftOut > 0 {
				fmt.Fprintf(s.err, "%s left out: push from the directory that they come from\n", plural(p.done.LeftOut, "entry of a server is", "entries of a server are"))
				if len(p.entries) == 0 { // an earlier bundle is worth more than an empty one
					if p.asJSON {
						_ = s.json(p.done)
					}
					return cmp.Or(ctx.Err(), p.done.found())
				}
			}
			if idle > 0 {
				fmt.Fprintf(s.err, "%s left out, whose code isn't here\n", plural(idle, "alias was", "aliases were"))
				if len(p.entries) == 0 {
					return foundError("no entry that is selected has code")
				}
			}
			if url != "" {
				return p.upload(ctx, s, to, o)
			}
			err = output(ctx, s, *file, func(w io.Writer) error { return p.push(ctx, w, s) })
			if found := foundError(""); p.asJSON && (err == nil || errors.As(err, &found)) {
				_ = s.json(p.done)
			}
			return err
		}
	},
}

// pusher brings entries of stores to a bundle or a server.
type pusher struct {
	frame   *frame.Options
	entries []outgoing
	trouble trouble // with the entry that was read last
	asJSON  bool    // done is printed, and not a line
	done    pushReport
}

// pushReport is what push tells scripts.
type pushReport struct {
	Entries int    `json:"entries"` // in the bundle, or uploaded
	Bytes   int64  `json:"bytes"`   // of those, as they were written
	Present uint64 `json:"present"` // on the server already
	LeftOut int    `json:"left_out"`
}

// outgoing is an entry, and what the bundle is to say about it.
type outgoing struct {
	key  modcache.Key
	info modcache.Info
	from modcache.Store
}

func (p *pusher) push(ctx context.Context, w io.Writer, s *streams) error {
	out, err := pack.NewWriter(w)
	if err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	slices.SortFunc(p.entries, func(a, b outgoing) int { return slices.Compare(a.key[:], b.key[:]) })
	for _, e := range p.entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := p.encode(ctx, e)
		if err != nil {
			p.done.LeftOut++
			fmt.Fprintf(s.err, "%s  %s\n", e.key, troubleText(err))
			continue
		}
		if err := out.Add(e.key, sane(e.info.Created), b); err != nil {
			return fmt.Errorf("write the bundle: %w", err)
		}
		p.done.Bytes += int64(len(b))
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("write the bundle: %w", err)
	}
	p.done.Entries = out.Entries()
	if !p.asJSON {
		fmt.Fprintf(s.err, "%s in the bundle, %s\n", plural(p.done.Entries, "entry", "entries"), bytesize.Format(p.done.Bytes))
	}
	return p.done.found()
}

// found is the error of a push that left something out.
func (r pushReport) found() error {
	if r.LeftOut == 0 {
		return nil
	}
	return foundError(plural(r.LeftOut, "entry was", "entries were") + " left out; see above")
}

// get reads an entry, and says why it can't be had.
func (p *pusher) get(ctx context.Context, e outgoing) (*modcache.Artifact, error) {
	p.trouble.clear()
	a, ok, err := e.from.Get(ctx, e.key)
	if err == nil && !ok {
		err = cmp.Or(p.trouble.err(), errors.New("it is gone"))
	}
	return a, err
}

// encode returns the frame of an entry. In memory, because tar wants to know its
// length before it takes a byte.
func (p *pusher) encode(ctx context.Context, e outgoing) ([]byte, error) {
	a, err := p.get(ctx, e)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	var src io.ReaderAt = a
	if a.InMemory() {
		b, err := a.Bytes()
		if err != nil {
			return nil, err
		}
		src = frame.Bytes(b)
	}
	var buf bytes.Buffer
	_, err = frame.Write(&buf, src, a.Size(), frame.MetaOf(e.key, e.info), p.frame)
	return buf.Bytes(), err
}
