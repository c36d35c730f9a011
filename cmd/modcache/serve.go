package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/bounded"
	"github.com/modcache/modcache/remote"
)

var serveCommand = command{
	name:  "serve",
	short: "serve entries to a fleet over HTTP",
	long: `
Serves the entries in a directory to clients of package remote, with its Plain
layout, until it is interrupted. There are two kinds of servers:

  - with -sign, the directory is one that a program or modcache warm has
    filled, and nobody can upload: one build machine compiles, the fleet
    reads. Each entry is compressed and signed once, after it was first asked
    for. The result is kept in the directory, which makes it up to a third
    larger, or in memory if the directory can't be written, or has more than
    half of -max-bytes, or 1 GiB without that. Give the limit of whoever fills
    the directory, who drops artifacts for what is added beyond that.
  - without, the directory holds what clients have signed and uploaded with a
    token. This server has no key and can't forge anything. It needs a
    directory of its own, which no program can use as its cache. It is one
    place, whatever stands before a key in a URL: signers who don't trust each
    other need a server each, as one replaces what the other has uploaded.

Clients verify every entry with the public keys in their keyring. Tokens keep
others out; entries aren't secret otherwise. Outside of one machine, use
-tls-cert, or a proxy in front. Keys, tokens and certificates are read at the
start: a renewed certificate needs a restart.

Besides entries, it serves /healthz, and /metrics in the text format of
Prometheus, which needs a token if reading does. Requests are logged to
standard error.`,
	make: func(fs *flag.FlagSet) action {
		v := &server{}
		v.dir.register(fs)
		fs.StringVar(&v.addr, "addr", "127.0.0.1:8077", "the address to listen on, such as `:8077`")
		fs.StringVar(&v.sign, "sign", "", "the private key to sign with, in a file such as `signing.key`; see modcache keygen")
		fs.StringVar(&v.keyring, "keyring", "", "refuse uploads that none of the public keys in this file, such as `trusted.keys`, has signed")
		fs.StringVar(&v.readTokens, "read-tokens", "", "bearer tokens that may read, one in a line of a file such as `read.tokens`, where # at its begin makes it a comment; by default everybody may")
		fs.StringVar(&v.writeTokens, "write-tokens", "", "bearer tokens that may upload, delete and read, in a file such as `write.tokens`; by default nobody may")
		fs.Var(&v.maxBytes, "max-bytes", "drop what went unused longest beyond this size, such as `2GiB`; by default only what leaves 5 %, at most 1 GiB, of the file system free")
		fs.Var(&v.maxSize, "max-entry", "refuse uploads larger than this size, such as `64MiB`; by default 256 MiB")
		fs.IntVar(&v.downloads, "max-downloads", 0, "answer so many downloads at once, such as `100`, and send others away, who then compile; 0 = 1024")
		fs.BoolVar(&v.asJSON, "json", false, "print the URL that it serves as one JSON object; -log json is for what follows")
		fs.StringVar(&v.log, "log", "text", "how requests are logged: text, `json` or off")
		fs.StringVar(&v.cert, "tls-cert", "", "the certificate chain, in a file such as `tls.crt`")
		fs.StringVar(&v.certKey, "tls-key", "", "the certificate's private key, in a file such as `tls.key`")
		return v.run
	},
}

type server struct {
	dir                     dirFlags
	addr, sign, keyring     string
	readTokens, writeTokens string
	cert, certKey, log      string
	maxBytes, maxSize       byteCount
	downloads               int
	asJSON                  bool
}

// serveReport is what serve tells scripts, once it takes requests.
type serveReport struct {
	URL string `json:"url"`
}

func (v *server) run(ctx context.Context, s *streams, _ []string) error {
	switch {
	case v.sign == "" && v.dir.dir == "":
		return usagef("name a directory for uploads with -dir: not one that programs use as their cache")
	case v.sign != "" && v.writeTokens != "":
		return usagef("-sign makes the server read-only: there is nothing to write with -write-tokens")
	case v.sign != "" && (v.keyring != "" || v.maxSize > 0):
		return usagef("-max-entry and -keyring are for servers that take uploads, not for -sign")
	case v.downloads < 0:
		return usagef("-max-downloads can't be negative")
	case (v.cert == "") != (v.certKey == ""):
		return usagef("-tls-cert and -tls-key belong together")
	}
	log, err := v.logger(s.err)
	if err != nil {
		return err
	}
	o, err := v.options()
	if err != nil {
		return err
	}
	o.Logger = log
	secure, err := v.tls()
	if err != nil {
		return err
	}
	if err := s.interruption.begin(ctx); err != nil { // requests that are under way in the end have time
		return err
	}
	d, err := v.open(ctx, s, log)
	if err != nil {
		return err
	}
	defer d.Close()
	handler, err := remote.NewHandler(d, o)
	if err != nil {
		return err
	}
	err = v.serve(ctx, s, handler, secure, log)
	return errors.Join(err, handler.Close(), flushAtEnd(ctx, d))
}

// flushAtEnd doesn't keep a server that is to end from that, where the file system hangs.
func flushAtEnd(ctx context.Context, d modcache.Store) error {
	_, err := bounded.Call(context.WithoutCancel(ctx), bounded.Limit{Wait: endPatience}, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, d.Flush(ctx)
	}, nil)
	if errors.Is(err, bounded.ErrNoAnswer) {
		err = fmt.Errorf("what was stored last may not be durable: %w", err)
	}
	return err
}

// endPatience is for requests that are under way when a server is to end, and for its file system after them.
const endPatience = 10 * time.Second

// open opens the directory. One to sign from may belong to somebody else, who lets us read it.
func (v *server) open(ctx context.Context, s *streams, log *slog.Logger) (*modcache.Disk, error) {
	uploads := v.sign == ""
	o := modcache.DiskOptions{MaxBytes: int64(v.maxBytes), OnEvent: func(e modcache.Event) {
		if e.Kind == modcache.EventCorrupt || e.Kind == modcache.EventStoreFailed || e.Kind == modcache.EventDegraded {
			log.Warn("store", "what", e)
		}
	}}
	d, err := v.dir.open(ctx, s, o, uploads)
	if err == nil || uploads {
		return d, err
	}
	o.ReadOnly = true
	d, readErr := v.dir.open(ctx, s, o, false)
	if readErr != nil {
		return nil, err
	}
	log.Warn("the directory is only read: what is signed is kept in memory", "error", err)
	return d, nil
}

// lossy is a writer that nobody waits for for long: what reads its other end may have stopped.
type lossy struct {
	io.Writer
	lane *bounded.Lane
}

func (l lossy) Write(line []byte) (int, error) {
	kept := bytes.Clone(line)
	_, _ = bounded.Do(context.Background(), l.lane, time.Second, func(context.Context) (int, error) { return l.Writer.Write(kept) }, nil)
	return len(line), nil
}

func (v *server) logger(w io.Writer) (*slog.Logger, error) {
	w = lossy{w, bounded.NewLane(1)}
	switch v.log {
	case "text":
		return slog.New(slog.NewTextHandler(w, nil)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, nil)), nil
	case "off":
		return slog.New(slog.DiscardHandler), nil
	}
	return nil, usagef("-log is text, json or off")
}

func (v *server) options() (*remote.HandlerOptions, error) {
	o := &remote.HandlerOptions{MaxSize: int64(v.maxSize), MaxDownloads: v.downloads}
	var err error
	if v.sign != "" {
		if o.Signer, err = readKeyFile(v.sign); err != nil {
			return nil, err
		}
	}
	if v.keyring != "" {
		if o.Keyring, err = readKeyring(v.keyring); err != nil {
			return nil, err
		}
	}
	if o.ReadTokens, err = readTokens(v.readTokens); err != nil {
		return nil, err
	}
	o.WriteTokens, err = readTokens(v.writeTokens)
	return o, err
}

// tls returns nil for a server without.
func (v *server) tls() (*tls.Config, error) {
	if v.cert == "" {
		return nil, nil
	}
	chain, err := readText(v.cert)
	if err != nil {
		return nil, fmt.Errorf("-tls-cert: %w", err)
	}
	key, err := readText(v.certKey)
	if err != nil {
		return nil, fmt.Errorf("-tls-key: %w", err)
	}
	cert, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("-tls-cert and -tls-key: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}, nil
}

// readTokens reads a file with a token in each line. Files, because everybody
// sees the arguments of a process.
func readTokens(file string) (tokens []string, err error) {
	if file == "" {
		return nil, nil
	}
	b, err := readText(file)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if token := strings.TrimSpace(line); token != "" && token[0] != '#' { // which begins a comment, as in files of keys
			tokens = append(tokens, token)
		}
	}
	if len(tokens) == 0 {
		// Without any, everybody could read.
		return nil, fmt.Errorf("%s holds no token; put one into each line", file)
	}
	return tokens, nil
}

// serve returns when ctx ends and the requests under way are done, or given up.
func (v *server) serve(ctx context.Context, s *streams, h http.Handler, secure *tls.Config, log *slog.Logger) error {
	l, err := net.Listen("tcp", v.addr)
	if err != nil {
		return fmt.Errorf("%w; name another address with -addr", err)
	}
	const slowest, patience = 15 * time.Minute, 10 * time.Second
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: patience, ReadTimeout: slowest, WriteTimeout: slowest, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), TLSConfig: secure,
	}
	scheme := "http"
	listen := func() error { return srv.Serve(l) }
	if secure != nil {
		scheme = "https"
		listen = func() error { return srv.ServeTLS(l, "", "") }
	}
	failed := make(chan error, 1)
	go func() { failed <- listen() }()
	url := scheme + "://" + l.Addr().String()
	if v.asJSON {
		err = s.json(serveReport{url})
	} else {
		_, err = fmt.Fprintf(s.out, "serving %s\n", url)
	}
	if err == nil {
		select {
		case err = <-failed:
			return err
		case <-ctx.Done():
		}
	}
	log.Info("ending: no new requests are taken, those under way have time", "time", endPatience)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	if late := srv.Shutdown(end); late != nil {
		log.Warn("ending: what is still under way is cut off", "error", late)
		_ = srv.Close()
	}
	<-failed
	log.Info("ended")
	return err
}
