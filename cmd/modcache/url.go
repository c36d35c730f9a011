package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/weburl"
	"github.com/modcache/modcache/remote"
)

// place is a server that a URL on the command line names, and who we are to it.
type place struct {
	url    string
	layout remote.Layout
	header http.Header
	advice string // for who isn't let in
}

// urlHelp is what commands say of URLs.
const urlHelp = `
A URL is one of these, as docs/remote.md describes the servers:

  https://host/path          modcache serve, nginx, or whatever takes PUT
  bazel+https://host/path    a Bazel remote cache
  s3://bucket/prefix         Amazon S3; AWS_ENDPOINT_URL names another service

http works too. MODCACHE_TOKEN is sent as a bearer token, and a user and a
password in the URL as basic authentication. For s3, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_REGION count, but no files
and no roles.`

var urlStart = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)

// isURL reports whether somebody means a URL with what is to be the name of a file.
func isURL(name string) bool { return urlStart.MatchString(name) || weburl.Mistyped(name) }

// errOutputURL doesn't quote the URL, which may hold a password.
var errOutputURL = usagef("-o names a file, and this is a URL; modcache push URL uploads")

// secretive is what may have a user and a password in it, in a URL that is mistyped.
var secretive = regexp.MustCompile(`:.*@`)

// splitURL tells the URL of a server, of which there may be one, from other operands. It quotes none.
func splitURL(operands []string) (url string, others []string, err error) {
	for _, o := range operands {
		switch {
		case !urlStart.MatchString(o):
			if _, err := os.Lstat(o); err != nil && secretive.MatchString(o) {
				return "", nil, usagef("there is no such file, and a URL begins with https://, http://, bazel+https:// or s3://")
			}
			others = append(others, o)
		case url != "":
			return "", nil, usagef("one URL at a time")
		default:
			url = o
		}
	}
	return url, others, nil
}

// parsePlace never quotes the URL, which may hold a password.
func parsePlace(raw string, getenv func(string) string) (*place, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, usagef("this URL can't be parsed: escape what isn't a letter or a digit in its user and password")
	}
	if u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, usagef("%q isn't the URL of a server: it has to have a host, and nothing behind the path", weburl.Shown(u))
	}
	switch scheme, bazel := strings.CutPrefix(u.Scheme, "bazel+"); {
	case u.Scheme == "s3":
		return s3Place(u, getenv)
	case scheme != "http" && scheme != "https":
		return nil, usagef("%q isn't the URL of a server that is known here: begin with https://, http://, bazel+https:// or s3://", weburl.Shown(u))
	case bazel:
		u.Scheme = scheme
		fallthrough
	default:
		if weburl.Torn(u) {
			return nil, usagef("there is an @ in the path of this URL: write it as %%40 there, and a slash in a password as %%2F")
		}
		p := &place{url: u.String(), advice: "does MODCACHE_TOKEN, or the password in the URL, allow that?"}
		if bazel {
			p.layout = remote.BazelCAS
		}
		if token := strings.TrimSpace(getenv("MODCACHE_TOKEN")); token != "" && u.User == nil {
			p.header = http.Header{"Authorization": {"Bearer " + token}}
		}
		return p, nil
	}
}

func s3Place(u *url.URL, getenv func(string) string) (*place, error) {
	if u.User != nil || u.Port() != "" || weburl.Torn(u) {
		return nil, usagef("%q: want s3://bucket/prefix, with %%40 for an @ in it; credentials are in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL names a server", weburl.Shown(u))
	}
	c := remote.Credentials{AccessKey: getenv("AWS_ACCESS_KEY_ID"), SecretKey: getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: getenv("AWS_SESSION_TOKEN")}
	if (c.AccessKey == "") != (c.SecretKey == "") {
		return nil, usagef("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY belong together: one of them isn't set")
	}
	l := remote.S3{Bucket: u.Host, Region: cmp.Or(getenv("AWS_REGION"), getenv("AWS_DEFAULT_REGION"), "us-east-1")}
	if prefix := strings.Trim(u.Path, "/"); prefix != "" {
		l.Prefix = prefix + "/"
	}
	p := &place{advice: "do AWS_ACCESS_KEY_ID and AWS_REGION allow that? S3 answers 403 too for what isn't there, without s3:ListBucket"}
	if c.AccessKey != "" {
		l.Credentials = func(context.Context) (remote.Credentials, error) { return c, nil }
	} else {
		p.advice = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY aren't set, so that requests aren't signed"
	}
	p.url = cmp.Or(getenv("AWS_ENDPOINT_URL_S3"), getenv("AWS_ENDPOINT_URL"))
	if l.PathStyle = p.url != ""; !l.PathStyle {
		p.url = "https://s3." + l.Region + ".amazonaws.com"
	}
	p.layout = l
	return p, nil
}

// trustFlags say who signs what is on a server, or what else seals it.
type trustFlags struct{ bundleFlags }

func (t *trustFlags) register(fs *flag.FlagSet, sign, keyring bool) {
	fs.StringVar(&t.secret, "bundle-key-file", "", "a secret of at least 16 bytes, in a file such as `bundle.secret`, that seals what is on the server, instead of signatures")
	if sign {
		fs.StringVar(&t.sign, "sign", "", "the private key to sign with, in a file such as `signing.key`; see modcache keygen")
	}
	if keyring {
		fs.StringVar(&t.keyring, "keyring", "", "what is on the server has to be signed with one of the public keys in this file, such as `trusted.keys`")
	}
}

// remoteOptions are those of a store for a command, which has more patience than a lookup.
func (b *bundleFlags) remoteOptions(p *place) (*remote.Options, error) {
	const patience = 30 * time.Second
	o := &remote.Options{
		Layout: p.layout, Header: p.header, MaxSize: -1, Queue: -1, AbsentFor: -1, Pause: -1, Retries: 2,
		DialTimeout: patience / 2, FirstByte: patience, Stall: patience, Budget: -1,
	}
	var err error
	switch {
	case b.secret != "" && b.sign+b.keyring != "":
		return nil, usagef("-bundle-key-file excludes -sign and -keyring: entries are sealed with one key")
	case b.secret != "":
		o.Secret, err = readSecret(b.secret)
	case b.sign != "":
		o.Signer, err = readKeyFile(b.sign)
	case b.keyring != "":
		if o.Keyring, err = readKeyring(b.keyring); err == nil && !slices.ContainsFunc(o.Keyring.Keys, func(k remote.PublicKey) bool { return !slices.Contains(o.Keyring.Revoked, k.ID()) }) {
			err = fmt.Errorf("%s revokes all of its keys; add the public key of whoever signs now", b.keyring)
		}
	default:
		err = errNoTrust
	}
	return o, err
}

// errNoTrust is of who names a server and no key. Of a bundle, a digest may be enough.
var errNoTrust = errors.New("what is on a server has to be signed")

// open returns the store at the place. What it can't make of the URL or the bucket is the
// command line's fault.
func (p *place) open(o *remote.Options) (*remote.Store, error) {
	v := *o
	v.Queue = -1 // commands wait for what they queue
	store, err := remote.New(p.url, &v)
	if err != nil {
		return nil, usageError(plain(err))
	}
	return store, nil
}

// check asks the server for what it can't have, so that one which is down, refuses us or isn't
// meant is found before any work is done. Who may only write is refused when reading.
func (p *place) check(ctx context.Context, store *remote.Store, onlyWrite bool) error {
	_, _, err := store.Get(ctx, modcache.Key{})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !(onlyWrite && errors.Is(err, fs.ErrPermission)):
		return p.explain(err)
	case store.Metrics().Corrupt > 0:
		return fmt.Errorf("%v has an answer for an entry that can't be: is the path in the URL right?", store)
	}
	return nil
}

// explain adds to an error what to do.
func (p *place) explain(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; %s", err, p.advice)
	}
	return err
}

// placeAt is parsePlace and remoteOptions for a command whose key flags the text names.
func (b *bundleFlags) placeAt(raw, flags string) (*place, *remote.Options, error) {
	p, err := parsePlace(raw, os.Getenv)
	if err != nil {
		return nil, nil, err
	}
	o, err := b.remoteOptions(p)
	if errors.Is(err, errNoTrust) {
		err = usagef("%v: give %s, or -bundle-key-file", err, flags)
	}
	return p, o, err
}
