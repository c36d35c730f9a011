package remote

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"time"

	"github.com/modcache/modcache"
	"github.com/modcache/modcache/internal/breaker"
	"github.com/modcache/modcache/internal/frame"
	"github.com/modcache/modcache/internal/option"
)

// Options configure a [Store]. Zero fields mean the defaults, but for the keys:
// one of Keyring, Signer and Secret is needed. Negative numbers switch off
// what they bound.
type Options struct {
	// Layout says what kind of server the URL names: [Plain], which is the
	// default, [BazelAC], [BazelCAS] or an [S3].
	Layout Layout

	// Client makes the requests, with whatever proxies, TLS settings and
	// credentials its Transport brings. Its Timeout should be 0, because it would
	// cut large transfers short. Over HTTP/2, have the Transport send pings, or it doesn't notice a connection that is
	// dead. Uploads have connections of their own, or lookups would wait behind them over HTTP/2: for that, an [http.Transport] is cloned
	// when the first begins, without what its RegisterProtocol was told; another kind of Transport, none, or one that golang.org/x/net/http2
	// has configured, has to see to it. The default is a client of the store's own, that does all that, and heeds the proxy
	// settings of the environment.
	Client *http.Client

	// Header is sent along with each request, such as Authorization. Of it, only
	// Accept, User-Agent and the like are sent to another host, port or scheme that
	// the server redirects to.
	Header http.Header

	// Keyring holds the keys whose entries are used.
	Keyring Keyring

	// Signer signs what Add uploads, and is trusted like the keys of the Keyring.
	// Without a Signer and a Secret, the store is read-only.
	Signer *PrivateKey

	// Secret authenticates entries instead of signatures, for fleets in which
	// everybody who reads may also write. It has at least 16 bytes, random ones.
	Secret []byte

	// ReadOnly refuses Add and Delete even if there is a key to sign with.
	ReadOnly bool

	// MaxSize is the length of the largest artifact that is fetched or uploaded.
	// The default is 512 MiB.
	MaxSize int64

	// DialTimeout bounds connecting with the default Client, also for what nobody waits for: uploads, and lookups that were
	// given up, whose connection is there for the next one. The default is 10 s.
	DialTimeout time.Duration

	// FirstByte bounds the time from asking to the head of the response, dialing
	// included. It is what a dead server costs, once. The default is 250 ms.
	FirstByte time.Duration

	// Stall bounds the time in which nothing arrives of a response. Once the
	// head of an entry has said how long compiling it took, one twentieth of
	// that is allowed if that is more. The default is 250 ms.
	Stall time.Duration

	// Budget bounds a whole Get; then the module is compiled. The default is a quarter of
	// the time that compiling the entry took, or FirstByte + Stall if that is more. A
	// transfer is given up early when it would clearly take longer. Until the head of an
	// entry has said how long it took, it is a quarter of the estimated time, between
	// 250 ms, or FirstByte if that is more, and FirstByte + Stall. The estimate stands for what the head doesn't say. Where nothing is compiled, under the
	// RequireHit of a Cache or with a negative [modcache.CompileEstimate], there is no default: Stall bounds the transfer, and the
	// Cache waits for up to 30 seconds.
	Budget time.Duration

	// AbsentFor is how long the store remembers that the server doesn't have an
	// entry, and doesn't ask again. The default is 2 s. So long, or for 2 s if that is less, it remembers that the server was too slow for one.
	AbsentFor time.Duration

	// Pause is how long a failing server is left alone at first. It doubles with
	// each failure in a row, up to a minute, and is jittered by half. Then
	// the server is asked in the background, and used again when it answers. The default is 1 s.
	Pause time.Duration

	// Queue bounds the bytes of the artifacts that wait for their upload; what
	// doesn't fit isn't uploaded. The default is 256 MiB, or an eighth of GOMEMLIMIT, but no less than 64 MiB. One that is larger by itself has room beside that, but one at a time.
	Queue int64

	// Uploads is how many uploads run at once. The default is 2.
	Uploads int

	// Retries is how often a failed upload is tried again, first after about
	// half a second, then after twice as long each time. The default is 4. Where no
	// upload arrives for more pauses in a row, or the server asks for more than 90 seconds, those that wait fail at once.
	Retries int

	// Name is the Layer in events. The default is "remote".
	Name string

	// OnEvent, if set, is called for whatever happens; see [modcache.Event].
	OnEvent func(modcache.Event)
}

// Format implements [fmt.Formatter]: it hides the Secret and what is in the Header. In an unexported field of
// another struct, also behind a pointer, package fmt calls no method, and prints them. It never prints the key of the Signer.
func (o Options) Format(f fmt.State, verb rune) {
	type plain Options // without this method
	if len(o.Secret) > 0 {
		o.Secret = []byte("hidden")
	}
	o.Header = maps.Clone(o.Header)
	for name := range o.Header {
		o.Header[name] = []string{"hidden"}
	}
	fmt.Fprintf(f, fmt.FormatString(f, verb), plain(o))
}

const (
	minBudget   = 250 * time.Millisecond // by the estimate alone
	budgetShare = 4                      // of the compile time

	slowFor = 2 * time.Second // an entry isn't asked for again, by those who can compile

	never = time.Duration(math.MaxInt64 / 8) // far away, and safe to multiply
)

// validate returns a copy with the defaults filled in. In it, what was
// switched off is huge, or 0 where that means the same.
func (o *Options) validate() (Options, error) {
	if o == nil {
		return Options{}, errors.New("modcache: a remote store needs Options with a key to verify with: set Keyring, Signer or Secret")
	}
	v := *o
	if v.Layout == nil {
		v.Layout = Plain
	}
	v.Name = cmp.Or(v.Name, "remote")
	v.MaxSize = min(option.Number(v.MaxSize, 512<<20, frame.MaxSize), frame.MaxSize, math.MaxInt>>1) // it has to fit memory
	v.DialTimeout = option.Number(v.DialTimeout, 10*time.Second, 0)
	v.FirstByte = min(option.Number(v.FirstByte, 250*time.Millisecond, never), never)
	v.Stall = min(option.Number(v.Stall, 250*time.Millisecond, never), never)
	v.Budget = min(option.Number(v.Budget, 0, never), never)
	v.AbsentFor = option.Number(v.AbsentFor, 2*time.Second, 0)
	v.Pause = min(option.Number(v.Pause, time.Second, 0), time.Minute)
	v.Queue = option.Queue(v.Queue)
	v.Uploads = max(1, option.Number(v.Uploads, 2, 1))
	v.Retries = option.Number(v.Retries, 4, 0)
	return v, nil
}

// fallback is how long the first kind of address of a server is tried alone: short enough for a lookup to have an answer from the
// second.
func (o *Options) fallback() time.Duration { return min(300*time.Millisecond, o.FirstByte/3) }

// softFaults is how many failures in a row that cost little stop a server from being asked.
const softFaults = 3

// breaker returns one for a server that is left alone as the options say.
func (o *Options) breaker() breaker.Breaker {
	limit := softFaults
	if o.Pause == 0 {
		limit = 0
	}
	return breaker.Breaker{Limit: limit, Pause: o.Pause, Jitter: true}
}
